"""Boxes: forms (corners, COCO's xywh), frames (pixels, fractions, padded square) and overlap.

Every function takes and gives float64 [..., 4]; a tensor on the CPU is accepted too, what comes back is an array.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Boxes = NDArray[np.float64]

BOX_SLACK_PX = 1.0
"""Boxes may lie this far outside the image (published annotations round that way); they are cut at its border."""


def as_coordinates(values: ArrayLike) -> Boxes:
    """Return boxes float64 [..., 4] or points [..., 2]; an empty list becomes [0, 4]. ValueError for other shapes."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 and array.ndim < 2:
        return array.reshape(0, 4)
    if array.ndim == 0 or array.shape[-1] not in (2, 4):
        raise ValueError(f"boxes are [..., 4] and points [..., 2], not {array.shape}")
    return array


def xywh_to_xyxy(boxes_xywh: ArrayLike) -> Boxes:
    """Left, top, width, height (COCO) -> corners."""
    boxes = as_coordinates(boxes_xywh)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def xyxy_to_xywh(boxes_xyxy: ArrayLike) -> Boxes:
    """Corners -> left, top, width, height (COCO)."""
    boxes = as_coordinates(boxes_xyxy)
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def px_to_norm(boxes_xyxy_px: ArrayLike, orig_wh: tuple[int, int]) -> Boxes:
    """Original pixels -> fractions of W and H."""
    boxes: Boxes = as_coordinates(boxes_xyxy_px) / np.tile(orig_wh, 2)
    return boxes


def norm_to_px(boxes_xyxy_norm: ArrayLike, orig_wh: tuple[int, int]) -> Boxes:
    """Fractions of W and H -> original pixels."""
    boxes: Boxes = as_coordinates(boxes_xyxy_norm) * np.tile(orig_wh, 2)
    return boxes


def px_to_padsq(boxes_xyxy_px: ArrayLike, orig_wh: tuple[int, int]) -> Boxes:
    """Original pixels -> fractions of the center-padded square (u-LLaVA's box frame).

    The margin is real-valued, (max - min) / 2, hence half a pixel off ``pad_center`` where the difference is odd.
    """
    longest, margin = _padded_square(orig_wh)
    return (as_coordinates(boxes_xyxy_px) + margin) / longest


def padsq_to_px(boxes_xyxy_padsq: ArrayLike, orig_wh: tuple[int, int]) -> Boxes:
    """Fractions of the center-padded square -> original pixels."""
    longest, margin = _padded_square(orig_wh)
    return as_coordinates(boxes_xyxy_padsq) * longest - margin


def _padded_square(orig_wh: tuple[int, int]) -> tuple[int, Boxes]:
    longest = max(orig_wh)
    return longest, np.tile([(longest - orig_wh[0]) / 2, (longest - orig_wh[1]) / 2], 2)


def clip_boxes_px(boxes_xyxy_px: ArrayLike, orig_wh: tuple[int, int]) -> Boxes:
    """Cut boxes to the image; a box wholly outside becomes an empty one on the border."""
    boxes: Boxes = np.clip(as_coordinates(boxes_xyxy_px), 0.0, np.tile(orig_wh, 2))
    return boxes


def sort_corners(boxes_xyxy: ArrayLike) -> Boxes:
    """Turn an inverted box the right way round: left <= right, top <= bottom."""
    boxes = as_coordinates(boxes_xyxy)
    first, second = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=-1)


def box_area(boxes_xyxy: ArrayLike) -> NDArray[np.float64]:
    """Areas [...] of boxes [..., 4]; an inverted box has none."""
    boxes = as_coordinates(boxes_xyxy)
    sides = np.clip(boxes[..., 2:] - boxes[..., :2], 0.0, None)
    area: NDArray[np.float64] = sides[..., 0] * sides[..., 1]
    return area


def box_iou(boxes_a: ArrayLike, boxes_b: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union [n, m] of boxes [n, 4] and [m, 4] of one frame; two empty boxes give 0."""
    a, b = as_coordinates(boxes_a)[:, None], as_coordinates(boxes_b)[None, :]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0.0, None)
    intersection = sides[..., 0] * sides[..., 1]
    union = box_area(a) + box_area(b) - intersection
    iou: NDArray[np.float64] = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return iou
