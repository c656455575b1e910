"""From the pixels of a class to the mask of each of its boxes, and whether such a mask is worth keeping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ullava.data.pseudo.settings import PseudoSettings
from ullava.geometry import box_iou, mask_to_box_xyxy_px
from ullava.structures import BoxXYXY, MaskArray

NOTHING = "nothing found in the box"
TOO_SMALL = "box below min_area"
TOO_EMPTY = "covers less than min_fill of its box"
TOO_FULL = "covers more than max_fill of its box"
ELSEWHERE = "its own box is below min_box_iou"
UNMATCHED = "no mask to agree with"
DISAGREES = "agreement below min_iou"


@dataclass(frozen=True, slots=True)
class ClassBoxes:
    """The boxes of one class in an image, in original pixels; ``numbers`` are the ids of their annotations."""

    name: str
    numbers: tuple[int, ...]
    boxes: tuple[BoxXYXY, ...]


def pixels_of(box: BoxXYXY, size_hw: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of all pixels that a box touches, one at least."""
    height, width = size_hw
    left, top = min(int(box[0]), width - 1), min(int(box[1]), height - 1)
    right, bottom = max(left + 1, int(np.ceil(box[2]))), max(top + 1, int(np.ceil(box[3])))
    return slice(top, bottom), slice(left, right)


def masks_of_boxes(found: MaskArray, boxes: Sequence[BoxXYXY]) -> list[MaskArray]:
    """Deal the pixels of a class [H, W] out to its boxes; a pixel outside of all of them is nobody's.

    Where boxes overlap, a pixel belongs to the box in which it is nearest to the center: in halves of its sides, times
    its area, so that what stands in the box of something larger keeps its own.
    """
    size = (found.shape[0], found.shape[1])
    best = np.full(size, np.inf, dtype=np.float32)
    owner = np.full(size, -1, dtype=np.int32)
    for place, box in enumerate(boxes):
        rows, columns = pixels_of(box, size)
        down = np.abs(np.arange(size[0])[rows] + 0.5 - (box[1] + box[3]) / 2) / max((box[3] - box[1]) / 2, 0.5)
        across = np.abs(np.arange(size[1])[columns] + 0.5 - (box[0] + box[2]) / 2) / max((box[2] - box[0]) / 2, 0.5)
        area = (box[2] - box[0]) * (box[3] - box[1])
        distance = (np.hypot(down[:, None], across[None, :]) * area).astype(np.float32)
        nearer = distance < best[rows, columns]
        owner[rows, columns][nearer] = place
        best[rows, columns][nearer] = distance[nearer]
    return [np.asarray(found & (owner == place), dtype=np.bool_) for place in range(len(boxes))]


def is_large(box: BoxXYXY, size_hw: tuple[int, int], settings: PseudoSettings) -> bool:
    """Whether a box covers enough of the image to be cut."""
    return (box[2] - box[0]) * (box[3] - box[1]) >= settings.min_area * size_hw[0] * size_hw[1]


def fault_of_mask(mask: MaskArray | None, box: BoxXYXY, settings: PseudoSettings) -> str:
    """Return why the mask [H, W] of a box is not worth keeping, '' where it is."""
    own = None if mask is None else mask_to_box_xyxy_px(mask)
    if mask is None or own is None:
        return NOTHING
    rows, columns = pixels_of(box, (mask.shape[0], mask.shape[1]))
    fill = float(mask[rows, columns].mean())
    if fill < settings.min_fill:
        return TOO_EMPTY
    if fill > settings.max_fill:
        return TOO_FULL
    return ELSEWHERE if float(box_iou([own], [box])[0, 0]) < settings.min_box_iou else ""
