"""Mask and box of one annotated thing, checked against each other and against the image; shared by COCO and refs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ullava.data.converters.imported.items import BOXES, Faults
from ullava.data.readers.record import are_numbers, box_inside
from ullava.errors import DataError
from ullava.geometry import box_iou, mask_to_box_xyxy_px, segmentation_to_mask, xywh_to_xyxy, xyxy_to_xywh
from ullava.geometry.boxes import BOX_SLACK_PX
from ullava.structures import MaskArray

BoxFormat = Literal["xywh", "xyxy"]
BOX_TOLERANCE_PX = 2.0
SAME_BOX_IOU = 0.8
"""A stated box agrees with its mask's where all sides are so near, or the IoU is so high: outlines lie between pixels,
and the thin end of one fills none."""
SAME_AREA = 0.01


class Thing(NamedTuple):
    """``segmentation`` as written, without its bad parts (None: boxes only).

    ``bbox`` is x, y, width, height in pixels; ``area`` the number of the mask's pixels (0: boxes only).
    """

    segmentation: Any
    bbox: list[float]
    area: int


def has_mask(value: Mapping[str, Any]) -> bool:
    """Whether an annotation says anything about its mask: exports of boxes write null, [], {} or [[]]."""
    segmentation = value.get("segmentation")
    return bool(segmentation) and not (isinstance(segmentation, list) and not any(segmentation))


class ThingReader:
    """Reads the things of one file. ``box_format`` None: x, y, width, height, unless the boxes tell otherwise."""

    def __init__(self, path: Path, faults: Faults, *, boxes_only: bool, box_format: BoxFormat | None = None) -> None:
        self.path = path
        self.faults = faults
        self.boxes_only = boxes_only
        self.box_format = box_format
        self._seen = _Seen()

    def read(self, value: Mapping[str, Any], size_hw: tuple[int, int], where: str) -> Thing:
        """Return mask and box of an annotation. A bad polygon among others is a fault of its own.

        Where there is a mask, the box is the mask's, and a stated one that is another is noted. Raises DataError for a
        thing that cannot be used.
        """
        if self.boxes_only and not has_mask(value):
            return Thing(None, self._stated(value, size_hw), 0)
        try:
            segmentation, mask = _sound(value.get("segmentation"), size_hw, where, self.faults)
        except DataError as error:
            if not has_mask(value) and are_numbers(value.get("bbox"), 4):
                raise DataError(f"{error} (it has a box alone; --boxes imports boxes)") from error
            raise
        box = mask_to_box_xyxy_px(mask)
        if box is None:
            raise DataError("the mask has no pixel")
        bbox = [float(side) for side in xyxy_to_xywh(box)]
        self._compare(value.get("bbox"), bbox, size_hw, where)
        return Thing(None, bbox, 0) if self.boxes_only else Thing(segmentation, bbox, int(mask.sum()))

    def check_form(self) -> None:
        """Raise DataError where the boxes of the whole file are told in another form than they are read in.

        A box here and there that leaves its image is a fault of its own; the others would be wrong without a sign.
        """
        if self.box_format is not None or not self.boxes_only:
            return
        if self._seen.are_fractions():
            raise DataError(
                f"{self.path}: every box lies between 0 and 1: these are fractions of the image, not pixels"
            )
        if self._seen.are_corners():
            raise DataError(
                f"{self.path}: the boxes look like corners (x0, y0, x1, y1), not like x, y, width, height: "
                f"{self._seen.telling} of {self._seen.count} say so, and all fit; --box-format xyxy reads them as "
                "corners (--box-format xywh: they are right as they are)"
            )

    def _stated(self, value: Mapping[str, Any], size_hw: tuple[int, int]) -> list[float]:
        stated = value.get("bbox")
        if stated is None:
            raise DataError("has neither a mask nor a 'bbox'")
        self._seen.add(stated, value.get("area"), size_hw)
        try:
            box = box_inside(self._as_xywh(stated), size_hw)
        except DataError as error:
            hint = " (as corners x0, y0, x1, y1 it would fit)" if _fits_as_corners(stated, size_hw) else ""
            raise DataError(f"'bbox' {error}{hint if self.box_format is None else ''}") from error
        bbox = [float(side) for side in xyxy_to_xywh(box)]
        if max(bbox[2:]) < 1:
            raise DataError(f"'bbox' {stated} is smaller than a pixel")
        return bbox

    def _compare(self, stated: Any, bbox: list[float], size_hw: tuple[int, int], where: str) -> None:
        if stated is None:
            return
        given = self._as_xywh(stated)
        if are_numbers(given, 4):
            height, width = size_hw
            with np.errstate(over="ignore"):  # what no float holds is outside as well
                corners, of_mask = xywh_to_xyxy(given), xywh_to_xyxy(bbox)
            corners = np.clip(corners, 0, [width, height] * 2)
            near = np.abs(corners - of_mask).max() <= BOX_TOLERANCE_PX
            if near or float(box_iou([corners], [of_mask])[0, 0]) >= SAME_BOX_IOU:
                return
            if np.abs(np.asarray(stated, np.float64) - of_mask).max() <= BOX_TOLERANCE_PX:
                self.faults.note(BOXES, where, f"'bbox' {stated} is in corners (x0, y0, x1, y1)")
                return
        self.faults.note(BOXES, where, f"'bbox' {stated!r:.80}, but the mask's is {bbox}")

    def _as_xywh(self, stated: Any) -> Any:
        if self.box_format != "xyxy" or not are_numbers(stated, 4):
            return stated
        return [stated[0], stated[1], stated[2] - stated[0], stated[3] - stated[1]]


class _Seen:
    """What all stated boxes of a file have in common. ``telling``: those that can only be corners."""

    def __init__(self) -> None:
        self.count = self.telling = 0
        self._fit = self._small = 0

    def add(self, stated: Any, area: Any, size_hw: tuple[int, int]) -> None:
        if not are_numbers(stated, 4):
            return
        self.count += 1
        self._small += max(stated) <= 1 and min(stated) >= 0
        if _fits_as_corners(stated, size_hw):
            self._fit += 1
            x, y, width, height = stated
            outside = x + width > size_hw[1] + BOX_SLACK_PX or y + height > size_hw[0] + BOX_SLACK_PX
            self.telling += outside or _is_area(area, (width - x) * (height - y), width * height)

    def are_fractions(self) -> bool:
        return self.count > 0 and self._small == self.count

    def are_corners(self) -> bool:
        return self.telling > 0 and self._fit == self.count


def _fits_as_corners(stated: Any, size_hw: tuple[int, int]) -> bool:
    if not are_numbers(stated, 4):
        return False
    x0, y0, x1, y1 = stated
    inside = x1 <= size_hw[1] + BOX_SLACK_PX and y1 <= size_hw[0] + BOX_SLACK_PX
    return bool(inside and -BOX_SLACK_PX <= x0 < x1 and -BOX_SLACK_PX <= y0 < y1)


def _is_area(area: Any, of_corners: float, of_sides: float) -> bool:
    """Whether a stated area is that of the corners and not that of the sides."""
    if not are_numbers([area], 1) or area <= 0:
        return False
    return abs(area - of_corners) <= SAME_AREA * area < abs(area - of_sides)


def _sound(segmentation: Any, size_hw: tuple[int, int], where: str, faults: Faults) -> tuple[Any, MaskArray]:
    """Return a segmentation without its unusable parts, each a fault, and its mask; DataError where no part is left."""
    try:
        return segmentation, segmentation_to_mask(segmentation, *size_hw)
    except DataError:
        if not isinstance(segmentation, list) or len(segmentation) < 2:
            raise
        bad: list[tuple[int, str]] = []
        for place, part in enumerate(segmentation):
            try:
                segmentation_to_mask([part], *size_hw)
            except DataError as error:
                bad.append((place, str(error).replace("polygon 0 ", "the polygon ", 1)))
        if len(bad) == len(segmentation):
            raise
        dropped = {place for place, _ in bad}
        kept = [part for place, part in enumerate(segmentation) if place not in dropped]
        mask = segmentation_to_mask(kept, *size_hw)
        for place, reason in bad:
            faults.add(f"{where}: segmentation[{place}]", f"{reason}; the other parts stay")
        return kept, mask
