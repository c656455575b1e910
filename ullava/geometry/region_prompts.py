"""Regions that a question points at, in the forms in which people give them: boxes, masks and run-length codes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from ullava.errors import DataError, did_you_mean
from ullava.geometry.boxes import BOX_SLACK_PX
from ullava.geometry.masks import SegmentationError, mask_to_box_xyxy_px, rle_decode, rle_encode
from ullava.structures import BoxXYXY, MaskArray, RegionPrompt

Regions = Sequence[Any]
"""Regions in any of the forms of ``as_region``."""
KEYS = ("box", "mask", "image")
"""Of a region that says which image it lies on: ``{"box": [x1, y1, x2, y2], "image": 0}``, or ``mask`` for ``box``."""
FORMS = "a box [x1, y1, x2, y2] in pixels, a mask bool [H, W] or a mask's run-length code {size, counts}"


def as_region(value: Any) -> RegionPrompt:
    """Return one region as a record; one that is a record is itself.

    ``value``: corners xyxy in original pixels, a mask bool [H, W], COCO's run-length code, or a table of ``KEYS``.
    Raises DataError for anything else, a box that is empty or inside out, and a mask without a pixel.
    """
    if isinstance(value, RegionPrompt):
        return value
    if isinstance(value, Mapping) and ("box" in value or "mask" in value):
        return _of_table(value)
    if isinstance(value, Mapping):
        try:
            return _of_mask(rle_decode(value))
        except SegmentationError as error:
            raise DataError(f"is neither {FORMS} ({error})") from error
    if isinstance(value, np.ndarray) and value.ndim == 2:
        if value.dtype != np.bool_:
            raise DataError(f"is a mask of {value.dtype}; a mask is bool [H, W]")
        return _of_mask(value)
    numbers = value.tolist() if isinstance(value, np.ndarray) else value
    if not _are_corners(numbers):
        raise DataError(f"is neither {FORMS}")
    x1, y1, x2, y2 = map(float, numbers)
    if x1 >= x2 or y1 >= y2:
        raise DataError(f"{_told((x1, y1, x2, y2))} is empty or inside out; a box is x1, y1, x2, y2")
    return RegionPrompt((x1, y1, x2, y2))


def as_regions(values: Any) -> tuple[RegionPrompt, ...]:
    """Return a list of regions as records. Raises DataError, which names the entry (``regions[0]``)."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence | np.ndarray):
        raise DataError(f"regions: a list of regions, each of them {FORMS}")
    regions = []
    for place, value in enumerate(values):
        try:
            regions.append(as_region(value))
        except DataError as error:
            raise DataError(f"regions[{place}] {error}") from error
    return tuple(regions)


def shared_out(counts: Sequence[int], regions: Sequence[RegionPrompt]) -> list[tuple[RegionPrompt, ...]]:
    """Share out regions over questions that point at so many each, in order."""
    ends = list(accumulate(counts))
    return [tuple(regions[end - count : end]) for end, count in zip(ends, counts, strict=True)]


def region_inside(region: RegionPrompt, size_hw: tuple[int, int]) -> RegionPrompt:
    """Return a region of an image of ``size_hw``, its box cut at the border.

    Raises DataError for a box that leaves the image by more than ``BOX_SLACK_PX`` and for a mask of another size.
    """
    height, width = size_hw
    if region.mask is not None and region.mask.shape != size_hw:
        found = f"{region.mask.shape[1]} x {region.mask.shape[0]}"
        raise DataError(f"is a mask of {found} pixels (width x height), the image has {width} x {height}")
    x1, y1, x2, y2 = region.box_xyxy_px
    slack = BOX_SLACK_PX
    inside: BoxXYXY = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    leaves = min(x1, y1) < -slack or x2 > width + slack or y2 > height + slack
    if leaves or inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise DataError(f"{_told(region.box_xyxy_px)} leaves the image of {width} x {height} pixels (width x height)")
    return RegionPrompt(inside, region.mask, region.image)


def region_to_json(region: RegionPrompt) -> Any:
    """Return a region as JSON values, which ``as_region`` reads back as the same."""
    where: Any = list(region.box_xyxy_px) if region.mask is None else rle_encode(region.mask)
    if region.image is None:
        return where
    return {"box" if region.mask is None else "mask": where, "image": region.image}


def _of_table(value: Mapping[str, Any]) -> RegionPrompt:
    unknown = next((key for key in value if key not in KEYS), None)
    if unknown is not None:
        raise DataError(f"has an unknown key '{unknown}'{did_you_mean(str(unknown), KEYS)}")
    if "box" in value and "mask" in value:
        raise DataError("has both 'box' and 'mask'; one of them says where it is")
    image = value.get("image")
    if image is not None and (isinstance(image, bool) or not isinstance(image, int) or image < 0):
        raise DataError(f"'image' has to be the number of an image, from 0, not {image!r}")
    found = as_region(value["box"] if "box" in value else value["mask"])
    return RegionPrompt(found.box_xyxy_px, found.mask, image)


def _of_mask(mask: MaskArray) -> RegionPrompt:
    box = mask_to_box_xyxy_px(mask)
    if box is None:
        raise DataError("is a mask without a pixel")
    return RegionPrompt(box, mask)


def _are_corners(values: Any) -> bool:
    if isinstance(values, str | bytes) or not isinstance(values, Sequence) or len(values) != 4:
        return False
    numbers = [value for value in values if isinstance(value, int | float | np.number) and not isinstance(value, bool)]
    return len(numbers) == 4 and all(math.isfinite(value) for value in numbers)


def _told(box: BoxXYXY) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
