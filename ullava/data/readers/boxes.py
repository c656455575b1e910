"""Boxes that somebody found in images beforehand, for vision encoders that look at objects (docs/vision_encoders.md).

A file holds a JSON list of ``{image, boxes: [[x0, y0, x1, y1], ...], scores: [...], labels: [...]}``: ``image`` is the
path below the folder of the images, boxes are in original pixels; ``scores`` and ``labels`` may be left out. Of a
video, ``image`` is its path and ``frames`` a list of such tables, one for each frame at equal steps. MG-LLaVA's own
files are keyed by the id of the annotation, which is not unique; ``keyed_by_image`` turns them into ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ullava.atomic_write import whole
from ullava.data.annotations.json_stream import is_finite_number, iter_records
from ullava.data.annotations.store import AnnotationStore
from ullava.data.annotations.text_lengths import TextLengths
from ullava.data.readers.base import TaskDataset
from ullava.data.readers.record import Record
from ullava.errors import DataError
from ullava.structures import Clip, DetectedBoxes, Sample, Task


class BoxFile:
    """Boxes by image. Opening converts the file once (ullava.data.annotations.store); a look-up reads one record.

    Raises DataError for a file that is missing, not JSON, or without the names of images.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = AnnotationStore.open(path)
        self._order = self.store.by_image()
        if len(self.store) and not self.store.image_name(int(self._order[0])):
            raise DataError(
                f"{self.store.where(int(self._order[0]))}: no 'image', the path of its image (published files are "
                "keyed by annotation: 'ullava data boxes' turns them into files by image)"
            )

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.store)

    def record(self, name: str, sample: str) -> Record | None:
        """Return the record of an image or video, by its path below the folder; None where there is none."""
        low, high = 0, len(self._order)
        while low < high:
            middle = (low + high) // 2
            if self.store.image_name(int(self._order[middle])) < name:
                low = middle + 1
            else:
                high = middle
        if low == len(self._order) or self.store.image_name(int(self._order[low])) != name:
            return None
        number = int(self._order[low])
        return Record(self.store.record(number), sample, lambda: self.store.where(number))

    def of_image(self, name: str, sample: str) -> DetectedBoxes | None:
        """Return the boxes of an image; None = missing. Raises SampleError for a record that is wrong."""
        record = self.record(name, sample)
        return None if record is None else boxes_of(record)

    def of_video(self, name: str, sample: str) -> tuple[DetectedBoxes | None, ...]:
        """Return the boxes of a video's frames; empty = missing. Raises SampleError for a record that is wrong."""
        record = self.record(name, sample)
        return () if record is None else tuple(boxes_of(frame) for frame in record.parts("frames"))


def boxes_of(record: Record) -> DetectedBoxes:
    """Read ``boxes``, ``scores`` and ``labels``. Raises SampleError with file and line."""
    corners = record.items("boxes")
    for box in corners:
        if not isinstance(box, list) or len(box) != 4 or not all(is_finite_number(value) for value in box):
            record.fail(f"a box has to be four numbers, x0 y0 x1 y1, not {box}")
    scores = record.items("scores") if "scores" in record.value else [1.0] * len(corners)
    labels = record.items("labels") if "labels" in record.value else [""] * len(corners)
    if not len(corners) == len(scores) == len(labels):
        record.fail(f"{len(corners)} boxes, {len(scores)} scores and {len(labels)} labels")
    if not all(is_finite_number(score) for score in scores) or not all(isinstance(label, str) for label in labels):
        record.fail("'scores' have to be numbers and 'labels' strings")
    array = np.asarray(corners, dtype=np.float64).reshape(-1, 4)
    return DetectedBoxes(array, np.asarray(scores, dtype=np.float64), tuple(labels))


def reader_of(dataset: TaskDataset) -> TaskDataset:
    """Return what reads the annotations, below the boxes."""
    return dataset.dataset if isinstance(dataset, BoxedDataset) else dataset


class BoxedDataset:
    """A dataset whose samples know what was found in their images. ``missing``: images that the file left out.

    Images without a record train without boxes. Frames that are drawn by lot have none: the file knows those at
    equal steps.
    """

    def __init__(self, dataset: TaskDataset, boxes: BoxFile, image_root: Path) -> None:
        self.dataset = dataset
        self.boxes = boxes
        self.image_root = image_root
        self.id, self.split = dataset.id, dataset.split
        self.task: Task = dataset.task
        self.missing: set[str] = set()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return a training sample; see TaskDataset."""
        return self._with_boxes(self.dataset.sample(index, rng))

    def queries(self, index: int) -> list[Sample]:
        """Return evaluation queries; see TaskDataset."""
        return [self._with_boxes(sample) for sample in self.dataset.queries(index)]

    def sources(self, index: int) -> str:
        """Return file, line and record; see TaskDataset."""
        return self.dataset.sources(index)

    def text_lengths(self) -> TextLengths:
        """Return what samples show and say; see TaskDataset."""
        return self.dataset.text_lengths()

    def _with_boxes(self, sample: Sample) -> Sample:
        images = tuple(self._of_image(path, sample.name) for path in sample.images)
        clips = tuple(self._of_clip(clip, sample.name) for clip in sample.videos)
        return replace(sample, boxes=images, frame_boxes=clips)

    def _of_image(self, path: Path, sample: str) -> DetectedBoxes | None:
        name = path.relative_to(self.image_root).as_posix()
        found = self.boxes.of_image(name, sample)
        if found is None:
            self.missing.add(name)
        return found

    def _of_clip(self, clip: Clip, sample: str) -> tuple[DetectedBoxes | None, ...]:
        if clip.sampling != "uniform":
            return ()
        name = clip.path.relative_to(self.image_root).as_posix()
        found = self.boxes.of_video(name, sample)
        if not found:
            self.missing.add(name)
        return found


def keyed_by_image(published: Path, annotations: Path, out: Path) -> tuple[int, int]:
    """Write MG-LLaVA's boxes (``{id, boxes, scores, labels}``) under the images that ``annotations`` name.

    ``annotations``: the LLaVA file ``[{id, image, ...}]`` that the ids are from; the first record with an id says which
    image it is. Returns how many images got boxes, and how many had none.

    Raises:
        DataError: a file that is missing or not JSON, an id that is not text, wrong boxes, ``out`` there already.
    """
    check_new(out)
    images: dict[str, str] = {}
    for number, line, _, value in iter_records(annotations):
        if isinstance(value.get("image"), str) and value["image"]:
            images.setdefault(_id_of(value, annotations, line, number), value["image"])
    written: set[str] = set()
    write_boxes(_published(published, images, written), out)
    return len(written), len(set(images.values()) - written)


def boxes_of_instances(instances: Path, out: Path) -> int:
    """Write the true boxes of a COCO instances file, crowds left out, each with the name of its class and score 1.

    What a perfect detector would find: an upper bound of what object tokens can bring. Returns how many images.

    Raises:
        DataError: a file that is missing or not of that form, ``out`` there already.
    """
    store = AnnotationStore.open(instances, "coco")
    write_boxes((_instances(store, number) for number in range(len(store))), out)
    return len(store)


def _instances(store: AnnotationStore, number: int) -> dict[str, Any]:
    record = Record(store.record(number), store.image_name(number), lambda: store.where(number))
    things = [part for part in record.parts("annotations") if part.value.get("iscrowd") != 1 and "bbox" in part.value]
    corners = [list(part.box_xyxy_px(record.size_hw())) for part in things]
    names = store.facts["categories"]
    labels = [names.get(str(part.integer("category_id")), "") for part in things]
    return {"image": store.image_name(number), "boxes": corners, "scores": [1.0] * len(things), "labels": labels}


def check_new(out: Path) -> None:
    """Refuse a file that is there already. Raises DataError."""
    if out.exists():
        raise DataError(f"{out}: exists already; name another file or remove it")


def write_boxes(entries: Iterable[Mapping[str, Any]], out: Path) -> None:
    """Write a file of found boxes, one record a line, under another name until it is whole.

    Raises:
        DataError: ``out`` is there already, or cannot be written.
    """
    check_new(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole(out) as unfinished, unfinished.open("w", encoding="utf-8") as file:
            ahead = "[\n"
            for entry in entries:
                file.write(ahead + json.dumps(entry, ensure_ascii=False))
                ahead = ",\n"
            file.write("[]\n" if ahead == "[\n" else "\n]\n")
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror})") from error


def _published(published: Path, images: dict[str, str], written: set[str]) -> Iterator[dict[str, Any]]:
    for number, line, _, value in iter_records(published):
        image = images.get(_id_of(value, published, line, number))
        if image is not None and image not in written:
            written.add(image)
            boxes_of(Record(value, image, partial(_place, published, line, number)))
            yield {"image": image, **{key: value[key] for key in ("boxes", "scores", "labels") if key in value}}


def _place(path: Path, line: int, number: int) -> str:
    return f"{path}:{line}: record {number}"


def _id_of(value: dict[str, Any], path: Path, line: int, number: int) -> str:
    found = value.get("id")
    if not isinstance(found, str | int) or isinstance(found, bool):
        raise DataError(f"{path}:{line}: record {number}: 'id' has to be text or a number")
    return str(found)
