"""COCO's instances form: ``{images, annotations, categories}``; polygons or RLE, crowd regions; or boxes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ullava.data.annotations.encodings import UTF_8
from ullava.data.converters.imported.classes import ClassList
from ullava.data.converters.imported.coco_file import CocoFile, ListedAnnotation, ListedImage, read_coco_file
from ullava.data.converters.imported.items import (
    CROWD,
    JOINED,
    Faults,
    Import,
    Item,
    one_file,
)
from ullava.data.converters.imported.listed import ListedReading, has_boxes_alone
from ullava.data.converters.imported.things import BoxFormat, Thing, ThingReader
from ullava.errors import DataError
from ullava.geometry import segmentation_to_mask

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,40}")


def read_coco(
    images: Path,
    annotations: Path,
    *,
    classes: Sequence[str] | None = None,
    crowd_as_instances: bool = False,
    boxes: bool = False,
    box_format: BoxFormat | None = None,
    encoding: str = UTF_8,
    stored_pixels: bool = False,
) -> Import:
    """Read a COCO file and its images.

    ``classes``: the names that may occur, in the order of their numbers (None: the file's). Categories of one name are
    one class, entries that name one image are one image, and a mask that is there twice counts once; all are noted.
    ``crowd_as_instances`` takes ``iscrowd: 1`` as 0. ``boxes`` reads boxes alone, for the task rec; a file without any
    mask is read so by itself. ``box_format``: see ThingReader. ``stored_pixels``: see annotated_size_hw.

    Faults: an image that is missing, unreadable or of another size than the file says (its annotations go with it); an
    annotation of no image or no category, without a mask or with one that cannot be used (of several polygons the bad
    ones alone), a box that cannot be. Images without an instance are named, but are no fault. Raises DataError for a
    file that cannot be understood, or that holds crowd regions alone.
    """
    faults = Faults()
    file = read_coco_file(annotations, faults, encoding=encoding)
    crowds = [entry for entry in file.annotations if entry.value.get("iscrowd") == 1]
    if crowds and len(crowds) == len(file.annotations) and not crowd_as_instances:
        raise DataError(
            f"{annotations}: all {len(crowds)} annotations are crowd regions (iscrowd: 1), which nothing asks for; "
            "CVAT, for one, marks every brush mask so: --crowd-as-instances takes them as instances"
        )
    boxes = boxes or has_boxes_alone(file, faults)
    listed = ClassList(_names(file) if classes is None else classes, closed=classes is not None)
    things = ThingReader(annotations, faults, boxes_only=boxes, box_format=box_format)
    reading = _Instances(
        images, file, faults, things, stored_pixels, classes=listed, crowd_as_instances=crowd_as_instances
    )
    items = [item for group in reading.listed_images() if (item := reading.item(group)) is not None]
    things.check_form()
    _note_joined_categories(file, listed, faults)
    return Import(
        layout="grefer" if boxes else "coco_instances",
        task="rec" if boxes else "instance",
        items=items,
        classes=listed.names,
        boxes_only=boxes,
        faults=faults,
    )


@dataclass(slots=True)
class _CocoImage:
    """One image with everything that is said of it, under whatever names and ids."""

    path: Path
    entries: list[tuple[ListedImage, list[ListedAnnotation]]] = field(default_factory=list)


@dataclass(slots=True)
class _Found:
    """An annotation that can be used. ``number`` is that of its class."""

    number: int
    crowd: bool
    thing: Thing


class _Instances(ListedReading):
    def __init__(
        self,
        images: Path,
        file: CocoFile,
        faults: Faults,
        things: ThingReader,
        stored_pixels: bool,
        *,
        classes: ClassList,
        crowd_as_instances: bool,
    ) -> None:
        super().__init__(images, file, faults, things, stored_pixels)
        self.classes = classes
        self.crowd_as_instances = crowd_as_instances

    def listed_images(self) -> Iterable[_CocoImage]:
        """Gather the annotations by image file, however often and under whatever names the file lists it."""
        of_image: dict[str, list[ListedAnnotation]] = {}
        for annotation in self.file.annotations:
            if annotation.image_id in self.file.images:
                of_image.setdefault(annotation.image_id, []).append(annotation)
            else:
                reason = f"no image has the id {annotation.image_id}"
                self.faults.add(f"{annotation.where}: {annotation.label}", reason)
        found: dict[str, _CocoImage] = {}
        for number, entries in self.file.images.items():
            names: dict[str, ListedImage] = {}
            told = of_image.get(number, [])
            lost = f"{len(told)} annotations go with it"
            for entry in entries:
                try:
                    names.setdefault(one_file(self.path_of(entry)), entry)
                except DataError as error:
                    self.faults.add(f"{entry.where}: {entry.name}", f"{error}; {lost}")
            if len(names) > 1:
                twice = " and ".join(f"'{entry.name}'" for entry in names.values())
                self.faults.add(entries[1].where, f"the id {number} is that of {twice}; {lost}")
                continue
            for path, entry in names.items():
                coco_image = found.setdefault(path, _CocoImage(self.path_of(entry)))
                coco_image.entries.append((entry, told))
                if len(coco_image.entries) > 1 or len(entries) > 1:
                    reason = f"'{entries[-1].name}' is '{coco_image.entries[0][0].name}' once more"
                    self.faults.note(JOINED, entries[-1].where, reason)
        return found.values()

    def item(self, coco_image: _CocoImage) -> Item | None:
        """Read an image and what is said of it; None where nothing can be asked, which is noted."""
        where = f"{coco_image.entries[0][0].where}: {coco_image.entries[0][0].name}"
        told = [entry for _, entries in coco_image.entries for entry in entries]
        crowds = 0 if self.crowd_as_instances else sum(entry.value.get("iscrowd") == 1 for entry in told)
        if crowds == len(told):
            reason = f"no instance but crowd regions ({crowds}; see --crowd-as-instances)" if told else "no annotation"
            self.faults.leave(where, reason)
            return None
        path = coco_image.path
        with self.faults.noting(where):
            size = self.size_of(path)
            found: list[_Found] = []
            for image, entries in coco_image.entries:
                with self.faults.noting(f"{image.where}: {image.name}"):
                    lost = f"{len(entries)} annotations go with it"
                    self.check_size(path, size, image, lost)
                    found += [one for entry in entries if (one := self._read(entry, image, size)) is not None]
            found = self._distinct(found, where, size)
            if all(one.crowd for one in found):
                raise DataError("no usable instance is left on this image")
            records = self._boxed(found, where) if self.things.boxes_only else (_masked(found),)
            return self.made(path, size, records) if records else None
        return None

    def _read(self, entry: ListedAnnotation, image: ListedImage, size_hw: tuple[int, int]) -> _Found | None:
        where = f"{entry.where}: {image.name}: {entry.label}"
        with self.faults.noting(where):
            number = self.classes.number(self.file.category(entry))
            crowd = entry.value.get("iscrowd", 0)
            if crowd not in (0, 1, None):
                raise DataError(f"'iscrowd' has to be 0 or 1, not {crowd!r}")
            is_crowd = crowd == 1 and not self.crowd_as_instances
            thing = self.things.read(entry.value, size_hw, where)
            if is_crowd:
                self.faults.note(CROWD, where, f"'{self.classes.name(number)}'")
            return _Found(number, is_crowd, thing)
        return None

    def _distinct(self, found: list[_Found], where: str, size_hw: tuple[int, int]) -> list[_Found]:
        """Keep one of several annotations with the same class, box and mask."""
        kept: list[_Found] = []
        by_box: dict[tuple[Any, ...], list[_Found]] = {}
        for one in found:
            alike = by_box.setdefault((one.number, one.crowd, *one.thing.bbox), [])
            if any(_same_mask(one.thing, other.thing, size_hw) for other in alike):
                self.faults.note(JOINED, where, f"a '{self.classes.name(one.number)}' is there twice, the same one")
                continue
            alike.append(one)
            kept.append(one)
        return kept

    def _boxed(self, found: list[_Found], where: str) -> tuple[dict[str, Any], ...]:
        """Return a record for each class; one that has a crowd region is not asked for, since boxes are missing."""
        records: list[dict[str, Any]] = []
        for number in sorted({one.number for one in found}):
            name, group = self.classes.name(number), [one for one in found if one.number == number]
            if any(one.crowd for one in group):
                self.faults.leave(where, f"'{name}' has a crowd region, so that its boxes are not all there")
                continue
            boxes = [{"bbox": one.thing.bbox, "category": name} for one in group]
            records.append({"sentences": [name], "no_target": False, "annotations": boxes})
        return tuple(records)


def _masked(found: Sequence[_Found]) -> dict[str, Any]:
    return {
        "annotations": [
            {"category_id": one.number, "iscrowd": int(one.crowd), "bbox": one.thing.bbox, "area": one.thing.area}
            | {"segmentation": one.thing.segmentation}
            for one in found
        ]
    }


def _same_mask(one: Thing, other: Thing, size_hw: tuple[int, int]) -> bool:
    if one.segmentation == other.segmentation:
        return True
    if one.segmentation is None or other.segmentation is None or one.area != other.area:
        return False
    masks = [segmentation_to_mask(thing.segmentation, *size_hw) for thing in (one, other)]
    return bool((masks[0] == masks[1]).all())


def _names(file: CocoFile) -> list[str]:
    """Return the categories' names in the order of their ids, where these are numbers, else as they are listed."""
    ids = list(file.categories)
    if all(_WHOLE_NUMBER.fullmatch(number) for number in ids):
        ids.sort(key=int)
    return [name for number in ids for name in file.categories[number]]


def _note_joined_categories(file: CocoFile, classes: ClassList, faults: Faults) -> None:
    first: dict[int, str] = {}
    for number, names in file.categories.items():
        for name in names:
            try:
                place = classes.number(name)
            except DataError:
                continue  # A category that is listed, and not among the classes; its annotations are faults.
            other = first.setdefault(place, number)
            if other != number or name != classes.name(place):
                reason = f"is class '{classes.name(place)}'" + (f", as category {other} is" if other != number else "")
                faults.note(JOINED, f"{file.path}: category {number} '{name}'", reason)
