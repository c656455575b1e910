"""Small data sets in the forms that their authors publish, written where our descriptors look for them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset
from ullava.data.readers.base import TaskDataset
from ullava.media.images import read_image_rgb_u8

H, W = 20, 30
SQUARE = [5.0, 4.0, 15.0, 4.0, 15.0, 10.0, 5.0, 10.0]
CORNER = [1.0, 12.0, 4.0, 12.0, 4.0, 18.0, 1.0, 18.0]


def masks() -> tuple[np.ndarray, np.ndarray]:
    """The pixels of SQUARE and of CORNER."""
    square, corner = np.zeros((H, W), dtype=bool), np.zeros((H, W), dtype=bool)
    square[4:10, 5:15] = True
    corner[12:18, 1:4] = True
    return square, corner


def make_image(path: Path, size_hw: tuple[int, int] = (H, W)) -> Path:
    """Write a gray image."""
    return png(path, np.full((*size_hw, 3), 90, np.uint8))


def png(path: Path, array: np.ndarray) -> Path:
    """Write an array as an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def as_json(path: Path, value: Any) -> Path:
    """Write JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def instances(name: str = "COCO_train2014_000000000007.jpg") -> dict[str, Any]:
    """COCO's form: one image, three objects of two classes."""
    return {
        "images": [{"id": 7, "file_name": name, "height": H, "width": W}, {"id": 8, "file_name": "other.jpg"}],
        "annotations": [
            {"id": 70, "image_id": 7, "category_id": 3, "segmentation": [SQUARE], "bbox": [5, 4, 10, 6], "iscrowd": 0},
            {"id": 71, "image_id": 7, "category_id": 4, "segmentation": [CORNER], "bbox": [1, 12, 3, 6], "iscrowd": 0},
            {"id": 72, "image_id": 8, "category_id": 4, "segmentation": [CORNER], "bbox": [1, 12, 3, 6], "iscrowd": 0},
        ],
        "categories": [{"id": 3, "name": "Dog"}, {"id": 4, "name": "tennis racket"}],
    }


def ref(number: int, annotation: Any, split: str = "train", *sentences: str, **more: Any) -> dict[str, Any]:
    """One entry of ``refs(*).p``."""
    said = [{"sent_id": 10 * number + k, "sent": text, "raw": text} for k, text in enumerate(sentences or ("it",))]
    head = {"ref_id": number, "ann_id": annotation, "image_id": 7, "category_id": 3, "split": split}
    return head | {"file_name": "COCO_train2014_000000000007_5.jpg", "sentences": said} | more


def as_pickle(path: Path, value: Any, protocol: int = 0) -> Path:
    """Write a pickle; protocol 0 is what Python 2 wrote."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def opened(folder: Path, split: str = "train") -> TaskDataset:
    """Open an imported folder as a recipe would, with a data root that means nothing to it."""
    return build_dataset(str(folder), DatasetEntry(split=split), Path("nowhere"))


def read_all(dataset: TaskDataset) -> int:
    """Read every query and image; return the number of regions."""
    count = 0
    for index in range(len(dataset)):
        for query in dataset.queries(index):
            (image,) = query.images
            assert read_image_rgb_u8(image).shape[:2] == (query.truth["height"], query.truth["width"])
            count += len(query.turns[0].regions)
    return count


def report(folder: Path, split: str = "train") -> dict[str, Any]:
    """What the import says about a split."""
    return json.loads((folder / "import.json").read_text())[split]
