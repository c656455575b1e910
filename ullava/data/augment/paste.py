"""Copy-paste (Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation").

An object of another sample of the same dataset is laid into the image. For questions that name a class and ask for all
of it, because there the truth can be made anew: what is pasted belongs to the answer about its class, covers others,
and may not be what another answer says is absent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ullava.data.annotations.class_names import class_key
from ullava.data.augment.changes import Window, own_closing
from ullava.data.readers.record import left_to_right
from ullava.errors import DataError
from ullava.geometry import mask_to_box_xyxy_px
from ullava.structures import ImageArray, MaskArray, Region, Sample, Turn
from ullava.text.answers import grounded_answer, no_target_answer

LAYOUTS = ("coco_instances", "label_png")
TASKS = ("instance", "res")
"""Whose questions name a class: every instance of it, or all of it as one mask."""
SCALE = (0.4, 1.0)
"""Times the object's own size, and ..."""
LARGEST_SHARE = 0.3
"""... never more than this share of the image by its box."""
LEAST_PIXELS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Paste:
    """An object of the image ``source``, its ``mask`` bool [H, W] and ``box`` there; ``place``: where it will be."""

    name: str
    source: Path
    mask: MaskArray
    box: Window
    place: Window

    def covered(self, size_hw: tuple[int, int]) -> MaskArray:
        """Return where the object lies in the target, bool [H, W]."""
        x0, y0, x1, y1 = self.place
        covered = np.zeros(size_hw, dtype=bool)
        covered[y0:y1, x0:x1] = _resized(self._cut(self.mask).astype(np.float32), self.place) > 0.5
        return covered

    def onto(self, image_rgb_u8: ImageArray, source_rgb_u8: ImageArray) -> ImageArray:
        """Return the target image with the object of the source image in it, both uint8 [H, W, 3].

        Raises DataError for a source image of another size than its mask.
        """
        if source_rgb_u8.shape[:2] != self.mask.shape:
            raise DataError(f"{self.source}: is not of the size of its mask, {self.mask.shape[1]}x{self.mask.shape[0]}")
        x0, y0, x1, y1 = self.place
        covered = self.covered((image_rgb_u8.shape[0], image_rgb_u8.shape[1]))[y0:y1, x0:x1]
        result = image_rgb_u8.copy()
        result[y0:y1, x0:x1][covered] = _resized(self._cut(source_rgb_u8), self.place)[covered]
        return result

    def _cut(self, array: NDArray[Any]) -> NDArray[Any]:
        x0, y0, x1, y1 = self.box
        return array[y0:y1, x0:x1]


def _resized(array: NDArray[Any], place: Window) -> NDArray[Any]:
    size = (place[2] - place[0], place[3] - place[1])
    return np.asarray(cv2.resize(array, size, interpolation=cv2.INTER_AREA))


def drawn_paste(other: Sample, size_hw: tuple[int, int], rng: np.random.Generator) -> Paste | None:
    """Draw an object of the sample ``other``, its size and its place in an image of ``size_hw``; None without masks."""
    found = [
        (region.phrase, region.mask, box)
        for turn in other.turns
        for region in turn.regions
        if region.mask is not None and (box := mask_to_box_xyxy_px(region.mask)) is not None
    ]
    places = rng.random(4)
    if not found or len(other.images) != 1:
        return None
    name, mask, box = found[int(places[0] * len(found))]
    own = (int(box[0]), int(box[1]), int(box[2]), int(box[3]))
    own_w, own_h = own[2] - own[0], own[3] - own[1]
    height, width = size_hw
    largest = min(math.sqrt(LARGEST_SHARE * height * width / (own_w * own_h)), width / own_w, height / own_h)
    scale = min(SCALE[0] + places[1] * (SCALE[1] - SCALE[0]), largest)
    w, h = max(int(own_w * scale), 1), max(int(own_h * scale), 1)
    x0, y0 = int(places[2] * (width - w + 1)), int(places[3] * (height - h + 1))
    paste = Paste(name, other.images[0], mask, own, (x0, y0, x0 + w, y0 + h))
    return paste if paste.covered(size_hw).sum() >= LEAST_PIXELS else None


def pasted(sample: Sample, paste: Paste, size_hw: tuple[int, int], min_visible: float) -> Sample | None:
    """Return ``sample`` with the object in its image; None where an answer would be wrong, or an object be hidden."""
    covered = paste.covered(size_hw)
    turns = [_pasted_turn(turn, paste.name, covered, sample.task == "instance", min_visible) for turn in sample.turns]
    if sample.boxes or None in turns:
        return None
    added = Region(paste.name, covered, mask_to_box_xyxy_px(covered))
    things = [_under(thing, covered) for thing in sample.things]
    return replace(
        sample,
        turns=tuple(turn for turn in turns if turn is not None),
        things=tuple(thing for thing in things if thing.mask is None or thing.mask.any())
        + ((added,) if things else ()),
    )


def _pasted_turn(turn: Turn, name: str, covered: MaskArray, each: bool, min_visible: float) -> Turn | None:
    if not turn.regions:
        names_it = class_key(turn.answer) == class_key(no_target_answer(name))
        return None if names_it else turn
    closing = own_closing(turn)
    if closing is None or any(region.mask is None for region in turn.regions):
        return None
    regions = [_under(region, covered) for region in turn.regions]
    if any(_share(now, before) < min_visible for now, before in zip(regions, turn.regions, strict=True)):
        return None
    if class_key(turn.regions[0].phrase) == class_key(name):
        regions = _joined(regions, covered, each)
    ordered = left_to_right(regions)
    return Turn(turn.question, grounded_answer(ordered, closing), ordered)


def _joined(regions: Sequence[Region], covered: MaskArray, each: bool) -> list[Region]:
    """Return the regions of a class with one more of it: a region of its own, or a part of the only one."""
    first = regions[0]
    if each or first.mask is None:
        return [*regions, Region(first.phrase, covered, mask_to_box_xyxy_px(covered))]
    mask = first.mask | covered
    box = None if first.box_xyxy_px is None else mask_to_box_xyxy_px(mask)
    return [Region(first.phrase, mask, box), *regions[1:]]


def _under(region: Region, covered: MaskArray) -> Region:
    """Return what is seen of a region beside what covers it."""
    if region.mask is None or not (region.mask & covered).any():
        return region
    mask = region.mask & ~covered
    box = None if region.box_xyxy_px is None or not mask.any() else mask_to_box_xyxy_px(mask)
    return Region(region.phrase, mask, box)


def _share(now: Region, before: Region) -> float:
    """Return how much of a region is still seen, 0 to 1."""
    if now.mask is None or before.mask is None:
        return 1.0
    return float(now.mask.sum()) / max(float(before.mask.sum()), 1.0)
