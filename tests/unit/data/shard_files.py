"""Small datasets of files for the tests of shards, and tar shards that are put together member by member."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ullava.config.load import dump_config
from ullava.config.schema import DatasetConfig, DatasetEntry, SplitConfig
from ullava.data.loading.build import build_dataset
from ullava.data.readers.base import TaskDataset
from ullava.media.images import read_image_rgb_u8

SQUARE = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0]]
TURNS = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A square."}]


def image(root: Path, name: str, seed: int) -> str:
    """Write a picture of 8 x 6 pixels; return its name."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)).save(path)
    return name


def png(value: int = 0) -> bytes:
    """Return a PNG of one color."""
    file = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), value, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def _refer(root: Path) -> Any:
    about = {"height": 6, "width": 8, "category": "square", "segmentation": SQUARE, "sentences": ["a", "the é one"]}
    return [about | {"image_path": image(root, f"in/{number // 2}.jpg", number // 2)} for number in range(5)]


def _labels(root: Path) -> Any:
    records = []
    for number in range(3):
        labels = np.zeros((6, 8), dtype=np.uint8)
        labels[1:4, 2:5] = number + 1
        Image.fromarray(labels).save(root / f"labels{number}.png")
        classes = [{"class": "sky", "class_id": number + 1}]
        record = {"image_path": image(root, f"{number}.png", number), "label_path": f"labels{number}.png"}
        records.append(record | {"classes": classes})
    return records


def _coco(root: Path) -> Any:
    images = [{"id": n, "file_name": image(root, f"{n}.jpg", n), "height": 6, "width": 8} for n in (7, 9)]
    things = [
        {
            "id": n,
            "image_id": (7, 9)[n % 2],
            "category_id": 3,
            "segmentation": SQUARE,
            "bbox": [1, 1, 4, 4],
            "area": 16.0,
        }
        for n in range(3)
    ]
    return {"images": images, "annotations": things, "categories": [{"id": 3, "name": "square"}]}


def _regions(root: Path) -> Any:
    part = {"segmentation": SQUARE, "height": 6, "width": 8}
    return [
        {"image_path": image(root, f"{n}.webp", n), "classes": ["cup", "cup:lid"], "annotations": [part, part]}
        for n in range(3)
    ]


def _dialogues(root: Path) -> Any:
    pair = [image(root, "a.jpg", 1), image(root, "b.png", 2)]
    two = [{"from": "human", "value": "<image> or <image>?"}, {"from": "gpt", "value": "The first."}]
    words = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4."}]
    records: list[dict[str, Any]] = [{"id": "1", "image": pair[0], "conversations": TURNS, "accepted": ["square"]}]
    return [*records, {"id": "2", "image": pair, "conversations": two}, {"id": "3", "conversations": words}]


def _captions(root: Path) -> Any:
    return [
        {"id": n, "image": image(root, f"{n}.gif", n), "conversations": TURNS, "references": ["One.", "Two."]}
        for n in range(3)
    ]


Case = tuple[str, str, Callable[[Path], Any]]
CASES: Mapping[str, Case] = {
    "res": ("refer", "res", _refer),
    "semantic": ("label_png", "semantic", _labels),
    "instance": ("coco_instances", "instance", _coco),
    "regions": ("regions", "res", _regions),
    "vqa": ("llava_json", "vqa", _dialogues),
    "caption": ("llava_json", "caption", _captions),
}
"""Layout, task, and what writes the files and returns the annotations."""


def write_dataset(root: Path, case: str, **more: Any) -> Path:
    """Write a dataset folder of files; return it."""
    layout, task, make = CASES[case]
    root.mkdir(parents=True)
    (root / "notes.json").write_text(json.dumps(make(root)), encoding="utf-8")
    splits = {"train": SplitConfig(annotations="notes.json")}
    config = DatasetConfig(
        name=case, layout=layout, task=task, splits=splits, root=".", license="none", source="test", **more
    )
    (root / "dataset.yaml").write_text(dump_config(config), encoding="utf-8")
    return root


def opened(folder: Path, **entry: Any) -> TaskDataset:
    """Open the split of a dataset folder."""
    return build_dataset(str(folder), DatasetEntry(**entry), Path("/nowhere"))


def write_tar(path: Path, members: Mapping[str, bytes | dict[str, Any]]) -> Path:
    """Write a tar file; a dict becomes JSON."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = json.dumps(content).encode() if isinstance(content, dict) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def same(one: Any, other: Any) -> bool:
    """Whether two samples ask, answer and show the same; names and the places of files may differ."""
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, Path):
        return np.array_equal(read_image_rgb_u8(one), read_image_rgb_u8(other))
    if is_dataclass(one):
        told = [field.name for field in fields(one) if field.name not in ("name", "dataset")]
        return type(one) is type(other) and all(same(getattr(one, name), getattr(other, name)) for name in told)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
