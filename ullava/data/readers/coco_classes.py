"""COCO's instances file, asked by class: all pixels of a category, or the box of the only one there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ullava.data.annotations.class_names import class_key
from ullava.data.annotations.class_table import ClassRow
from ullava.data.readers.base import QAPair
from ullava.data.readers.class_questions import ClassQuestions
from ullava.data.readers.coco_instances import CocoInstancesReader, is_crowd
from ullava.data.readers.record import Record, are_numbers
from ullava.geometry import mask_to_box_xyxy_px
from ullava.structures import BoxXYXY, MaskArray, Region


class CocoClassReader(ClassQuestions, CocoInstancesReader):
    """Task ``res``: the united masks of a category and the box around them. Task ``rec``: the box of a category's only
    object, with its mask where it has one.

    An outline so thin that no pixel is its own adds nothing to a union, nor does a box without height or width to what
    lacks a mask; it is an object of its class all the same. An annotation without ``segmentation`` (missing
    or empty) has a box alone. Crowd regions show the category too,
    roughly: they belong to the region that is answered, and queries carry them as ``truth["ignore_mask"]``, so that
    figures count neither a crowd that was found nor one that was left out. A category with nothing but crowd regions is
    there and is not asked.
    """

    tasks = ("res", "rec")

    def texts(self, value: dict[str, Any]) -> Sequence[str]:
        """Return the names of the categories that are there, each once."""
        return list({number: self.categories[number] for number in self._numbers(value)}.values())

    def class_list(self) -> Sequence[str]:
        """Return the categories of the file."""
        return list(self.categories.values())

    def measure(self, record: Record) -> list[ClassRow]:
        """Count the categories of an image."""
        size = record.size_hw()
        return [self._row(number, parts, size) for number, parts in self.all_groups(record).items()]

    def asks(self, record: Record, names: Sequence[str]) -> list[QAPair]:
        """Return a question for each of the categories called ``names``."""
        groups = {class_key(self.categories[number]): (number, g) for number, g in self.all_groups(record).items()}
        return [self._ask_class(record, *groups[class_key(name)]) for name in names]

    def things(self, record: Record) -> tuple[Region, ...]:
        """Return every object, by its mask or, without one, by its box; those too thin for either are left out."""
        size, found = record.size_hw(), []
        for number, parts in self.all_groups(record).items():
            name = self.categories[number].lower()
            for part in parts:
                mask = part.mask(size, may_be_empty=True) if has_mask(part) else None
                if mask is not None and mask.any():
                    found.append(Region(name, mask))
                elif mask is None and not is_flat(part):
                    found.append(Region(name, box_xyxy_px=part.box_xyxy_px(size)))
        return tuple(found)

    def _numbers(self, value: dict[str, Any]) -> list[int]:
        return [self.same[part["category_id"]] for part in value["annotations"] if not part.get("iscrowd")]

    def _row(self, number: int, parts: list[Record], size: tuple[int, int]) -> ClassRow:
        pixels = size[0] * size[1]
        things = [part for part in parts if not is_crowd(part)]
        mask = _union([part for part in things if has_mask(part)], size)
        area = 0.0 if mask is None else float(np.count_nonzero(mask)) / pixels
        boxed = [part for part in things if not has_mask(part) and not is_flat(part)]
        unmasked = sum(_area(part.box_xyxy_px(size)) for part in boxed) / pixels
        box = _area(_only_box(things[0], size)) / pixels if len(things) == 1 and not is_flat(things[0]) else 0.0
        return ClassRow(self.categories[number], area, box, unmasked, len(things), len(things) < len(parts))

    def _ask_class(self, record: Record, number: int, parts: list[Record]) -> QAPair:
        size, name = record.size_hw(), self.categories[number]
        truth: dict[str, Any] = {"class": name, "image_id": record.integer("image_id"), "category_id": number}
        truth |= {"height": size[0], "width": size[1]}
        things = [part for part in parts if not is_crowd(part)]
        if self.task == "rec":
            mask = things[0].mask(size) if has_mask(things[0]) else None
            return QAPair(name, (Region(name.lower(), mask, _only_box(things[0], size)),), truth)
        mask = _union([part for part in things if has_mask(part)], size)
        if mask is None or not mask.any():
            record.fail(f"no pixel is in the mask of a '{name}'")
        crowd = _union([part for part in parts if is_crowd(part)], size)
        if crowd is not None:
            truth["ignore_mask"] = crowd & ~mask
            mask = mask | crowd
        return QAPair(name, (Region(name.lower(), mask, mask_to_box_xyxy_px(mask)),), truth)


def has_mask(part: Record) -> bool:
    """Whether an annotation has a ``segmentation``; files of boxes have none, or an empty list."""
    return part.value.get("segmentation") not in (None, [])


def is_flat(part: Record) -> bool:
    """Whether an annotation's box has no height or no width, as rounding leaves it of a thing thinner than that."""
    values = part.value.get("bbox")
    return isinstance(values, list) and are_numbers(values, 4) and 0 in values[2:]


def _union(parts: list[Record], size: tuple[int, int]) -> MaskArray | None:
    masks = [part.mask(size, may_be_empty=True) for part in parts]
    return np.logical_or.reduce(masks) if masks else None


def _only_box(part: Record, size: tuple[int, int]) -> BoxXYXY:
    """Return the box of an object: its ``bbox``, or that of its mask where it has none."""
    box = None if "bbox" in part.value else mask_to_box_xyxy_px(part.mask(size))
    return part.box_xyxy_px(size) if box is None else box


def _area(box: BoxXYXY) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
