"""F, the boundary measure of DAVIS: how well the outline of a mask follows that of the truth.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (CVPR 2016), as the
program of the DAVIS 2017 challenge computes it: a pixel of one outline is met where a pixel of the other lies within
0.008 of the image's diagonal, rounded up; F is the harmonic mean of the met shares of both outlines. The outline is
one pixel wide, on the left and upper side of the step (Martin's boundary map of the Berkeley benchmark).
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from ullava.geometry import mask_to_box_xyxy_px
from ullava.structures import MaskArray

TOLERANCE_OF_DIAGONAL = 0.008
_ROUNDING = 1e-3
"""Distances come as float32; two whole squared distances up to 10,000 pixels differ by more once the root is taken."""


def boundary_f(predicted: MaskArray, truth: MaskArray) -> float:
    """Return F of two masks [H, W] in [0, 1]; two masks without an outline agree: 1.

    A mask that fills the whole image has no outline, as in the original.
    """
    said, true = boundary(predicted), boundary(truth)
    if not said.any() or not true.any():
        return float(said.any() == true.any())
    tolerance = tolerance_px(truth.shape)
    box = mask_to_box_xyxy_px(said | true)
    assert box is not None  # one of them has a pixel
    left, top, right, bottom = map(int, box)
    said, true = said[top:bottom, left:right], true[top:bottom, left:right]
    precision = _met(said, true, tolerance)
    recall = _met(true, said, tolerance)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def tolerance_px(shape_hw: tuple[int, ...]) -> int:
    """Return how far an outline may be off in an image of this size, in whole pixels."""
    return math.ceil(TOLERANCE_OF_DIAGONAL * math.hypot(*shape_hw))


def boundary(mask: MaskArray) -> MaskArray:
    """Return the outline of a mask [H, W]: pixels that differ from the one to the right, below, or right below.

    In the last row only the one to the right is compared, in the last column the one below.
    """
    inside = np.asarray(mask, dtype=np.bool_)
    found = np.zeros_like(inside)
    right, below = inside[:, :-1] != inside[:, 1:], inside[:-1] != inside[1:]
    found[:, :-1] |= right
    found[:-1] |= below
    found[:-1, :-1] |= inside[:-1, :-1] != inside[1:, 1:]
    return found


def _met(outline: MaskArray, other: MaskArray, tolerance: int) -> float:
    """Return the share of the pixels of ``outline`` that have a pixel of ``other`` within ``tolerance`` pixels."""
    away = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float(np.count_nonzero(away[outline] <= tolerance + _ROUNDING) / np.count_nonzero(outline))
