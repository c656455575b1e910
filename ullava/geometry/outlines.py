"""From a mask to polygons that run along pixel edges, so that drawing them again gives the very same mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ullava.geometry.masks import SegmentationError
from ullava.structures import MaskArray

Point = tuple[int, int]


def mask_outlines(mask: MaskArray) -> list[NDArray[np.int64]]:
    """Trace every border of a mask [H, W]: closed rings of corner points [n, 2] as x, y in pixels.

    Outer borders run clockwise on the screen, borders of holes the other way. Pixels that touch only at a corner
    belong to different rings.
    """
    following = _border_steps(mask)
    rings = []
    while following:
        start = next(iter(following))
        ring, here, heading = [], start, following[start][0]
        while True:
            choices = following[here]
            step = _right_turn(heading, choices) if len(choices) > 1 else choices[0]
            choices.remove(step)
            if not choices:
                del following[here]
            if step != heading or here == start:
                ring.append(here)
            heading = step
            here = (here[0] + step[0], here[1] + step[1])
            if here == start:
                break
        rings.append(_without_straight_points(np.asarray(ring, dtype=np.int64)))
    return rings


def simple_outlines(mask: MaskArray, epsilon_factor: float = 0.001, step_px: float = 0.8) -> list[NDArray[np.float32]]:
    """Return the outer outlines of a mask [H, W], simplified for people to edit: rings of corners [n, 2] as x, y in px.

    Holes are not told. ``epsilon_factor``: how far, in parts of its length, an outline may be from the mask;
    ``step_px``: how far it may be in any case, for outlines run along pixel edges, and nobody wants to edit each step.
    """
    import cv2

    rings = []
    for ring in mask_outlines(mask):
        x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
        if np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) < 0:
            continue
        traced = ring.astype(np.float32)[:, None]
        away_px = max(epsilon_factor * cv2.arcLength(traced, True), step_px)
        points = np.asarray(cv2.approxPolyDP(traced, away_px, True), dtype=np.float32)[:, 0]
        if len(points) >= 3:
            rings.append(points)
    return rings


def mask_to_polygons(mask: MaskArray) -> list[list[float]]:
    """Return COCO polygons (flat x, y, ...) of a mask [H, W]; ``polygons_to_mask`` gives back the same mask.

    Raises:
        SegmentationError: the mask has a hole, which a union of polygons cannot say. Use ``rle_encode`` for those.
    """
    polygons = []
    for ring in mask_outlines(mask):
        x, y = ring[:, 0], ring[:, 1]
        if np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) < 0:
            raise SegmentationError("the mask has a hole, which polygons cannot say; use RLE")
        polygons.append([float(value) for value in ring.ravel()])
    return polygons


def _border_steps(mask: MaskArray) -> dict[Point, list[Point]]:
    """Return the unit steps (dx, dy) that leave each corner point, with the mask on the right-hand side."""
    padded = np.pad(mask.astype(np.int8), 1)
    across = np.diff(padded, axis=1)[1:-1]  # +1: the pixel right of this vertical edge is inside
    down = np.diff(padded, axis=0)[:, 1:-1]  # +1: the pixel below this horizontal edge is inside
    steps: dict[Point, list[Point]] = {}
    for edges, sign, (start_x, start_y), step in (
        (down, 1, (0, 0), (1, 0)),
        (down, -1, (1, 0), (-1, 0)),
        (across, 1, (0, 1), (0, -1)),
        (across, -1, (0, 0), (0, 1)),
    ):
        rows, columns = np.nonzero(edges == sign)
        for x, y in zip((columns + start_x).tolist(), (rows + start_y).tolist(), strict=True):
            steps.setdefault((x, y), []).append(step)
    return steps


def _right_turn(heading: Point, choices: list[Point]) -> Point:
    """Where two borders touch at a corner, turn right on the screen and so stay with the same pixel."""
    right = (-heading[1], heading[0])
    return right if right in choices else choices[0]


def _without_straight_points(ring: NDArray[np.int64]) -> NDArray[np.int64]:
    """Drop the points of a ring [n, 2] at which it does not turn."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns: NDArray[np.int64] = ring[before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0] != 0]
    return turns
