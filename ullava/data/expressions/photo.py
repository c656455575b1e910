"""An annotated photograph as the rules see it: every object with its class, place, size and color."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ullava.data.expressions.colors import color_of_box, color_of_mask, is_colorful
from ullava.data.readers.record import Record
from ullava.geometry import mask_to_box_xyxy_px
from ullava.structures import BoxXYXY, ImageArray, MaskArray

UNCOLORED = frozenset(
    {"person", "man", "woman", "child", "boy", "girl", "people", "pedestrian", "rider", "player"}
    | {"tv", "laptop", "phone", "monitor", "screen", "clock", "mirror", "window"}
)
"""Classes (by their last word) without a color of their own: of people one sees clothes and skin, of screens
what they show."""


@dataclass(frozen=True, slots=True, eq=False)
class PhotoObject:
    """One annotated object. ``box`` is xyxy in pixels, ``area`` the share of the image that its mask (or box) covers.

    ``color``: where it is clear; ``not_colors``: those that it certainly does not have. ``written``: its annotation.
    """

    name: str
    box: BoxXYXY
    area: float
    masked: bool
    color: str | None
    not_colors: frozenset[str]
    written: Mapping[str, Any]

    @property
    def center(self) -> tuple[float, float]:
        """The center of the box, x and y in pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """One image. ``unsure``: classes with a crowd region, of which nothing is said, not even that they are absent."""

    file_name: str
    width: int
    height: int
    objects: tuple[PhotoObject, ...]
    unsure: frozenset[str]

    def of(self, name: str) -> list[int]:
        """Return the places in ``objects`` of a class."""
        return [place for place, thing in enumerate(self.objects) if thing.name == name]


def photo_of(record: Record, names: Mapping[int, str], image_rgb_u8: ImageArray, boxes_only: bool) -> Photo:
    """Read one row of a COCO instances file (ullava.data.annotations.coco_rows) beside its image, uint8 [H, W, 3].

    ``boxes_only``: segmentations are not looked at. Raises SampleError for an annotation that is wrong.
    """
    size_hw = record.size_hw()
    record.check_size(image_rgb_u8.shape[:2], "the image")
    parts = record.parts("annotations")
    for part in parts:
        if part.integer("category_id") not in names:
            part.fail(f"unknown category_id {part.integer('category_id')}")
    unsure = {names[part.integer("category_id")] for part in parts if part.value.get("iscrowd") == 1}
    single = [part for part in parts if part.value.get("iscrowd") != 1]
    masks = [part.mask(size_hw) if not boxes_only and part.value.get("segmentation") else None for part in single]
    boxes = [_box(part, mask, size_hw) for part, mask in zip(single, masks, strict=True)]
    objects, colorful = [], is_colorful(image_rgb_u8)
    for place, (part, mask, box) in enumerate(zip(single, masks, boxes, strict=True)):
        name = names[part.integer("category_id")]
        color, not_colors = (
            (None, frozenset[str]())
            if not colorful
            else _color(image_rgb_u8, name, box, mask, [b for other, b in enumerate(boxes) if other != place])
        )
        covered = (box[2] - box[0]) * (box[3] - box[1]) if mask is None else float(mask.sum())
        area = covered / (size_hw[0] * size_hw[1])
        objects.append(PhotoObject(name, box, area, mask is not None, color, not_colors, part.value))
    return Photo(record.text("image_path"), size_hw[1], size_hw[0], tuple(objects), frozenset(unsure))


def _box(part: Record, mask: MaskArray | None, size_hw: tuple[int, int]) -> BoxXYXY:
    found = mask_to_box_xyxy_px(mask) if mask is not None and "bbox" not in part.value else None
    return part.box_xyxy_px(size_hw) if found is None else found


def _color(
    image: ImageArray, name: str, box: BoxXYXY, mask: MaskArray | None, others: Sequence[BoxXYXY]
) -> tuple[str | None, frozenset[str]]:
    if name.split()[-1] in UNCOLORED:
        return None, frozenset()
    if mask is not None:
        color, not_colors = color_of_mask(image, box, mask)
    else:
        covered = np.zeros(image.shape[:2], dtype=bool)
        for x0, y0, x1, y1 in (other for other in others if not _holds(other, box)):
            covered[max(int(y0), 0) : int(np.ceil(y1)), max(int(x0), 0) : int(np.ceil(x1))] = True
        color, not_colors = color_of_box(image, box, covered)
    return (None if color == name else color), not_colors


def _holds(outer: BoxXYXY, inner: BoxXYXY) -> bool:
    """Whether one box holds the other nearly whole: the thing in front is mostly the smaller one."""
    wide = min(outer[2], inner[2]) - max(outer[0], inner[0])
    high = min(outer[3], inner[3]) - max(outer[1], inner[1])
    area = (inner[2] - inner[0]) * (inner[3] - inner[1])
    return max(wide, 0.0) * max(high, 0.0) >= 0.8 * area
