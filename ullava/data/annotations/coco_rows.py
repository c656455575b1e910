"""COCO's instances file (images, annotations, categories in one object) as one row an image, without holding it."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ullava.data.annotations.json_stream import JsonRecord, Row, iter_object_lists
from ullava.errors import DataError, did_you_mean

MAX_PROBLEMS = 20
_KEPT = ("id", "category_id", "segmentation", "bbox", "iscrowd")


class _Reading:
    """What the first pass gathers: images and categories in memory, annotations in a spool file."""

    def __init__(self, source: Path, spool: BinaryIO) -> None:
        self.source = source
        self.spool = spool
        self.images: dict[int, tuple[str, int, int, int]] = {}
        self.names: set[str] = set()
        self.categories: dict[int, str] = {}
        self.annotation_ids: set[int] = set()
        self.image_of = array("q")
        self.crowd = array("b")
        self.line_of = array("q")
        self.start_of = array("q")
        self.problems: list[str] = []

    def problem(self, key: str, record: JsonRecord, reason: str) -> None:
        self.problems.append(f"{self.source}:{record.line}: {key}[{record.number}]: {reason}")
        if len(self.problems) >= MAX_PROBLEMS:
            raise DataError(self.problems)

    def field(self, key: str, record: JsonRecord, name: str, kind: type) -> Any:
        value = record.value.get(name)
        if name not in record.value:
            self.problem(key, record, f"no '{name}'{did_you_mean(name, record.value)}")
        elif not isinstance(value, kind) or isinstance(value, bool):
            self.problem(key, record, f"'{name}' has to be {kind.__name__}, not {type(value).__name__}")
        else:
            return value
        return None

    def add(self, key: str, record: JsonRecord) -> None:
        number = self.field(key, record, "id", int)
        tables: dict[str, Collection[int]] = {
            "images": self.images,
            "categories": self.categories,
            "annotations": self.annotation_ids,
        }
        known = tables[key]
        if number is None:
            return
        if number in known:
            self.problem(key, record, f"id {number} is there twice")
        elif key == "images":
            name = self.image_name(record)
            height, width = self.field(key, record, "height", int), self.field(key, record, "width", int)
            if name is not None and name in self.names:
                self.problem(key, record, f"'{name}' is there twice; 'ullava data import coco' joins the two")
            elif name is not None and height is not None and width is not None:
                self.names.add(name)
                self.images[number] = (name, height, width, record.line)
        elif key == "categories":
            name = self.field(key, record, "name", str)
            if name is not None:
                self.categories[number] = name
        else:
            self.add_annotation(number, record)

    def image_name(self, record: JsonRecord) -> Any:
        """Return ``file_name``; LVIS has none, and names its images by the end of ``coco_url``: folder and file."""
        url = record.value.get("coco_url")
        if "file_name" not in record.value and isinstance(url, str) and url.count("/") >= 2:
            return "/".join(url.rsplit("/", 2)[1:])
        return self.field("images", record, "file_name", str)

    def add_annotation(self, number: int, record: JsonRecord) -> None:
        image = self.field("annotations", record, "image_id", int)
        if image is None:
            return
        self.annotation_ids.add(number)
        kept = {name: record.value[name] for name in _KEPT if name in record.value}
        try:
            text = json.dumps(kept, separators=(",", ":"), allow_nan=False)
        except ValueError:
            self.problem("annotations", record, "'segmentation' or 'bbox' holds a number that is not finite")
            return
        self.image_of.append(image)
        self.crowd.append(kept.get("iscrowd") == 1)
        self.line_of.append(record.line)
        self.start_of.append(self.spool.tell())
        self.spool.write(text.encode("utf-8"))


def coco_rows(source: Path, on_read: Callable[[int], object]) -> tuple[dict[str, Any], Iterator[Row]]:
    """Return the file's facts (categories, counts) and its rows, one for each image that has instances.

    Raises DataError that names list, number and line of: a missing or mistyped field, an id that is there twice, an
    annotation of an unknown image. Images without annotations, or with crowd regions alone, are counted in
    ``facts``; there is nothing to ask about them.
    """
    spool = tempfile.TemporaryFile()
    reading = _Reading(source, spool)
    for key, record in iter_object_lists(source, ("images", "annotations", "categories"), on_read):
        reading.add(key, record)
    reading.start_of.append(spool.tell())
    image_of = np.array(reading.image_of, dtype=np.int64)
    for place in np.flatnonzero(~np.isin(image_of, np.array(list(reading.images), dtype=np.int64)))[:MAX_PROBLEMS]:
        line = reading.line_of[int(place)]
        reading.problems.append(
            f"{source}:{line}: annotations[{int(place)}]: no image has the id {int(image_of[place])}"
        )
    if reading.problems:
        raise DataError(reading.problems)
    asked = np.unique(image_of[np.array(reading.crowd, dtype=np.int8) == 0])
    facts = {
        "categories": {str(number): name for number, name in reading.categories.items()},
        "images": len(reading.images),
        "images_without_instances": len(reading.images) - len(asked),
    }
    return facts, _joined(reading, image_of, set(asked.tolist()))


def _joined(reading: _Reading, image_of: np.ndarray, asked: set[int]) -> Iterator[Row]:
    """Yield rows of the ``asked`` images in the file's order; each annotation is read back from the spool."""
    order = np.argsort(image_of, kind="stable")
    ordered = image_of[order]
    with reading.spool as spool:
        for number, (name, height, width, line) in reading.images.items():
            if number not in asked:
                continue
            first, last = np.searchsorted(ordered, [number, number + 1])
            annotations = []
            for place in order[first:last].tolist():
                spool.seek(reading.start_of[place])
                annotations.append(spool.read(reading.start_of[place + 1] - reading.start_of[place]))
            head = {"image_id": number, "image_path": name, "height": height, "width": width}
            start = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
            yield Row(start[:-1] + b',"annotations":[' + b",".join(annotations) + b"]}", name, line)
