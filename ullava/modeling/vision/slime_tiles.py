"""SliME's slicing: which grid of tiles an image gets, and where it lies on the canvas.

arXiv 2406.08487, slicing (arXiv 2406.08487). Sizes are written (width, height), grids (columns, rows) as the
published code returns them.
"""

from __future__ import annotations

import math

from transformers.image_processing_utils import select_best_resolution

from ullava.errors import UserError
from ullava.modeling.vision.tiles import TilePlan, fit_into

MIN_WANTED, MAX_WANTED = 2, 6
"""Bounds of the number of tiles that the image's area asks for; the grid may hold one tile more (7) or fewer."""
MAX_TILES = MAX_WANTED + 1


def candidate_grids(wanted: int) -> list[tuple[int, int]]:
    """Every (columns, rows) whose product is ``wanted`` or one off, but never a single tile; fewer columns first."""
    counts = [number for number in (wanted - 1, wanted, wanted + 1) if number > 1]
    return [
        (columns, number // columns)
        for number in counts
        for columns in range(1, number + 1)
        if number % columns == 0
    ]  # fmt: skip


def plan_tiles(orig_wh: tuple[int, int], side: int, max_tiles: int = MAX_TILES) -> TilePlan:
    """Choose the grid for an image and lay the image on the canvas.

    The area asks for s = ceil(W H / side^2) tiles, kept within 2 and 6; of all grids of s - 1, s and s + 1 tiles that
    with most of the image's pixels wins, then the one that wastes least. ``max_tiles`` leaves out larger grids.

    Raises:
        UserError: a size that is not positive, or fewer than the two tiles that the smallest grid has.
    """
    width, height = orig_wh
    if min(width, height, side) <= 0:
        raise UserError(f"sizes must be positive: image {width}x{height}, tile {side}")
    if max_tiles < MIN_WANTED:
        raise UserError(f"max_tiles is {max_tiles}: the smallest grid of SliME has {MIN_WANTED} tiles")
    wanted = min(max(math.ceil(width * height / side**2), MIN_WANTED), MAX_WANTED, max_tiles)
    grids = [grid for grid in candidate_grids(wanted) if grid[0] * grid[1] <= max_tiles]
    canvases_hw = [(rows * side, columns * side) for columns, rows in grids]
    canvas_h, canvas_w = select_best_resolution((height, width), canvases_hw)
    resized_wh = fit_into(orig_wh, (canvas_w, canvas_h))
    offset_xy = ((canvas_w - resized_wh[0]) // 2, (canvas_h - resized_wh[1]) // 2)
    return TilePlan(orig_wh, side, (canvas_w // side, canvas_h // side), resized_wh, offset_xy)
