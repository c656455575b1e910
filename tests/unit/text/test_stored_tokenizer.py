"""Folders of tokenizers as models are published with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ullava.errors import UserError
from ullava.text.stored_tokenizer import open_tokenizer


def test_the_sentencepiece_model_of_llama_is_enough(shared_dir: Path, tmp_path: Path) -> None:
    shutil.copy(shared_dir / "realdata/tokenizers/llama2_sp/tokenizer.model", tmp_path)
    tokenizer = open_tokenizer(tmp_path)
    assert (len(tokenizer), tokenizer.eos_token) == (32000, "</s>")
    assert tokenizer.decode(tokenizer("Hello world", add_special_tokens=False)["input_ids"]) == "Hello world"


def test_the_model_of_tiktoken_is_called_so(shared_dir: Path, tmp_path: Path) -> None:
    shutil.copy(shared_dir / "realdata/tokenizers/llama3/tokenizer.model", tmp_path)
    with pytest.raises(UserError, match=r"tokenizer\.model is no sentencepiece model; if it is tiktoken's \(Llama 3\)"):
        open_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [(None, ""), ("tokenizer.json", "{"), ("tokenizer.json", "[]"), ("tokenizer_config.json", "[]")],
)
def test_folders_without_a_tokenizer_are_refused(tmp_path: Path, name: str | None, content: str) -> None:
    if name is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="no tokenizer can be read here") as caught:
        open_tokenizer(tmp_path)
    assert len(caught.value.problems) == 1 and "\n" not in caught.value.problems[0]
