"""Outlines through the middles of the pixels at a mask's edge, as LabelMe's and YOLO's readers draw them.

Both fill a polygon with every pixel that its line touches (``labelme.utils.shape_to_mask`` with Pillow,
``ultralytics`` and ``supervision`` with ``cv2.fillPoly``). Corners of pixels (``ullava.geometry.mask_outlines``) would
come out a pixel larger to the right and below there; these come out as the mask was, its holes filled.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ullava.structures import MaskArray

Ring = NDArray[np.int32]


def pixel_rings(mask: MaskArray) -> list[Ring]:
    """Return the outline of each part of a mask [H, W] as pixels [n, 2] (x, y), n from 3; holes are not told."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    rings = [np.asarray(contour, np.int32).reshape(-1, 2) for contour in contours]
    return [np.concatenate([ring, np.repeat(ring[-1:], max(0, 3 - len(ring)), axis=0)]) for ring in rings]


def join_rings(rings: Sequence[Ring]) -> Ring:
    """Return one closed line around all parts: from part to part and back on the shortest way between their points.

    Drawn, the ways add lines of one pixel.
    """
    joined, left = rings[0], list(rings[1:])
    while left:
        gaps = [np.square(joined[:, None].astype(np.int64) - ring[None]).sum(-1) for ring in left]
        nearest = int(np.argmin([gap.min() for gap in gaps]))
        here, there = np.unravel_index(int(gaps[nearest].argmin()), gaps[nearest].shape)
        ring = left.pop(nearest)
        round_trip = np.concatenate([ring[there:], ring[: there + 1]])
        joined = np.concatenate([joined[: here + 1], round_trip, joined[here:]])
    return joined


def draw_rings(rings: Sequence[Ring], height: int, width: int) -> MaskArray:
    """Draw outlines as the readers do: bool [height, width]."""
    canvas = np.zeros((height, width), np.uint8)
    for ring in rings:
        cv2.fillPoly(canvas, [ring], 1)
    return canvas.astype(np.bool_)


class Loss:
    """Counts the pixels that a form of masks changes; ``note`` says it."""

    def __init__(self) -> None:
        self.masks = self.changed = self.pixels = self.wrong = 0

    def add(self, mask: MaskArray, read_back: MaskArray) -> None:
        """Compare a mask with what readers will make of it."""
        wrong = int(np.count_nonzero(mask != read_back))
        self.masks += 1
        self.changed += wrong > 0
        self.pixels += int(mask.sum())
        self.wrong += wrong

    def note(self, why: str) -> list[str]:
        """Return one sentence where there was a mask."""
        if not self.masks:
            return []
        if not self.changed:
            return [f"all {self.masks} masks are read back as they are"]
        share = 100 * self.wrong / self.pixels
        return [f"{self.changed} of {self.masks} masks change by {share:.2g} % of all mask pixels: {why}"]
