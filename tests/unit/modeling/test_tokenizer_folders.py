"""Folders of tokenizers as models are published with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ullava.errors import UserError
from ullava.modeling.loading.pretrained import read_tokenizer


def test_the_sentencepiece_model_of_llama_is_enough(shared_dir: Path, tmp_path: Path) -> None:
    shutil.copy(shared_dir / "realdata/tokenizers/llama2_sp/tokenizer.model", tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    assert (len(tokenizer), tokenizer.eos_token) == (32000, "</s>")
    assert tokenizer.decode(tokenizer("Hello world", add_special_tokens=False)["input_ids"]) == "Hello world"


def test_the_model_of_tiktoken_is_called_so(shared_dir: Path, tmp_path: Path) -> None:
    shutil.copy(shared_dir / "realdata/tokenizers/llama3/tokenizer.model", tmp_path)
    with pytest.raises(UserError, match=r"tokenizer\.model: is no sentencepiece model; if it is tiktoken's"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (None, "", "holds no tokenizer; such a folder has tokenizer.json or tokenizer.model or"),
        ("tokenizer.json", "{", "tokenizer.json:1: cannot be read as JSON"),
        ("tokenizer.json", "[]", "tokenizer.json: is no JSON object"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json: is no JSON object"),
        ("tokenizer.model", "no pieces", "tokenizer.model: "),
    ],
)
def test_folders_without_a_tokenizer_are_refused(tmp_path: Path, name: str | None, content: str, said: str) -> None:
    if name is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        read_tokenizer(tmp_path)
    (line,) = caught.value.problems
    assert line.startswith(str(tmp_path)) and said in line and "\n" not in line
