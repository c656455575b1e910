"""What the data tests share: small datasets written for one test."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ullava.config.load import dump_config
from ullava.config.schema import DatasetConfig, DatasetEntry, SplitConfig
from ullava.data.loading.build import build_dataset
from ullava.data.readers.base import TaskDataset
from ullava.data.readers.layouts import reader_of

Build = Callable[..., TaskDataset]


@dataclass(frozen=True)
class Folder:
    """A data root of one test: writes images and annotations below it."""

    root: Path

    def image(self, name: str, array: np.ndarray, mode: str | None = None) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(array)
        (image if mode is None else image.convert(mode)).save(path)
        return path

    def annotations(self, value: Any, name: str = "notes.json") -> Path:
        path = self.root / name
        path.write_text(json.dumps(value), encoding="utf-8")
        return path


@pytest.fixture
def data_folder(tmp_path: Path) -> Folder:
    root = tmp_path / "data"
    root.mkdir()
    return Folder(root)


@pytest.fixture
def build(data_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """A function that writes a descriptor and its annotations and opens the dataset, called ``tests``."""

    def build_one(layout: str, records: Any, entry: DatasetEntry | None = None, **descriptor: Any) -> TaskDataset:
        data_folder.annotations(records)
        config = DatasetConfig(
            name="test",
            layout=layout,
            task=descriptor.pop("task", reader_of(layout).tasks[-1 if layout == "llava_json" else 0]),
            splits={"train": SplitConfig(annotations="notes.json")},
            license="none",
            source="this test",
            **descriptor,
        )
        file = tmp_path / "resources" / "datasets" / "tests" / "dataset.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dump_config(config), encoding="utf-8")
        monkeypatch.setenv("ULLAVA_RESOURCES", str(tmp_path / "resources"))
        return build_dataset("tests", entry or DatasetEntry(), data_folder.root)

    return build_one
