"""TGIF records in the original's form: read by the project's reader, written as the original writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_cases import folders, read
from tests.released_tokens import stage_tokens

from ullava.config.load import dump_config
from ullava.config.schema import DatasetConfig, DatasetEntry, SplitConfig
from ullava.data.loading.build import build_dataset
from ullava.data.readers.base import TaskDataset
from ullava.modeling.processing.rows_ullava_v1 import tokenize_as_released
from ullava.modeling.processing.tokenizing import tokenize
from ullava.text.conversation import CHAT_TEMPLATES
from ullava.text.released_tokenizer import llama_tokenizer
from ullava.text.tokens import VIDEO_PATCH

EVERY = pytest.mark.parametrize("folder", folders("datasets"))


@pytest.fixture(scope="module")
def tokenizer(shared_dir: Path) -> Any:
    model_file = shared_dir / "realdata" / "tokenizers" / "llama2_sp" / "tokenizer.model"
    return llama_tokenizer(model_file, stage_tokens(stage=1, base_has_pad=False), pad="[PAD]", max_length=1024)


@pytest.fixture
def dataset(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskDataset:
    config = DatasetConfig(
        name="golden",
        layout="llava_json",
        task="caption",
        splits={"train": SplitConfig(annotations=f"annotations/{tgif(folder)['annotation']}", images="gifs")},
        license="none",
        source="this test",
    )
    file = tmp_path / "datasets" / "golden" / "dataset.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(dump_config(config), encoding="utf-8")
    monkeypatch.setenv("ULLAVA_RESOURCES", str(tmp_path))
    monkeypatch.setenv("ULLAVA_CACHE", str(tmp_path / "cache"))
    return build_dataset("golden", DatasetEntry(turns=0), folder)


def tgif(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read(folder)["builders"]["tgif"]
    return found


def expanded(row: tuple[np.ndarray, np.ndarray], patch: int, tokens: int) -> tuple[list[int], list[int]]:
    """The row with the one placeholder of the video written out."""
    repeats = np.where(row[0] == patch, tokens, 1)
    return row[0].repeat(repeats).tolist(), row[1].repeat(repeats).tolist()


@EVERY
def test_rows_are_those_of_the_original(folder: Path, dataset: TaskDataset, tokenizer: Any) -> None:
    golden = read(folder, "expected/items.json")["tgif"]
    patch, tokens = tokenizer.get_vocab()[VIDEO_PATCH], read(folder)["video"]["tokens"]
    assert len(dataset) == len(golden["items"]) == tgif(folder)["items"]
    for item in golden["items"]:
        sample = dataset.sample(item["index"], np.random.default_rng(0))
        assert len(sample.videos) == int(item["has_video"])
        row = tokenize_as_released(tokenizer, golden["conv_type"], sample.turns, prompt_only=False)
        ids, labels = expanded(row, patch, tokens)
        assert (ids, labels) == (item["input_ids"], item["labels"]), item["index"]
        ours = tokenize(tokenizer, CHAT_TEMPLATES[golden["conv_type"]], sample.turns, system="", prompt_only=False)
        assert expanded(ours, patch, tokens)[0] == item["input_ids"], item["index"]
