"""SliME's slicing: which grid of tiles a picture gets, where it lies on the canvas, and the pixels of its crops.

Spec/siblings.md 4.1 and 6.4 (arXiv 2406.08487). Sizes are written (width, height), grids (columns, rows) as the
published code returns them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers.image_processing_utils import select_best_resolution

from ullava.errors import UserError
from ullava.geometry import View, plan_view
from ullava.modeling.pixels import resize_pillow_u8

MIN_WANTED, MAX_WANTED = 2, 6
"""Bounds of the number of tiles that the picture's area asks for; the grid may hold one tile more (7) or fewer."""
MAX_TILES = MAX_WANTED + 1


@dataclass(frozen=True, slots=True)
class TilePlan:
    """A picture on its canvas: ``grid_cr`` columns and rows of square tiles of ``side`` pixels.

    The picture is resized to ``resized_wh`` and pasted with its upper left corner at ``offset_xy``; the rest is black.
    """

    orig_wh: tuple[int, int]
    side: int
    grid_cr: tuple[int, int]
    resized_wh: tuple[int, int]
    offset_xy: tuple[int, int]

    @property
    def num_tiles(self) -> int:
        """How many tiles the canvas is cut into."""
        return self.grid_cr[0] * self.grid_cr[1]

    def views(self) -> list[View]:
        """The geometry of every tile, row by row over the canvas."""
        scale = (self.resized_wh[0] / self.orig_wh[0], self.resized_wh[1] / self.orig_wh[1])
        corner = (float(self.offset_xy[0]), float(self.offset_xy[1]))
        canvas_wh = (self.grid_cr[0] * self.side, self.grid_cr[1] * self.side)
        canvas = View("canvas_tile", self.orig_wh, scale, corner, canvas_wh)
        columns, rows = self.grid_cr
        square = (self.side, self.side)
        return [canvas.crop(x * self.side, y * self.side, square) for y in range(rows) for x in range(columns)]


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
    """Choose the grid for a picture and lay the picture on the canvas.

    The area asks for s = ceil(W H / side^2) tiles, kept within 2 and 6; of all grids of s - 1, s and s + 1 tiles that
    with most of the picture's pixels wins, then the one that wastes least. ``max_tiles`` leaves out larger grids.

    Raises:
        UserError: a size that is not positive, or fewer than the two tiles that the smallest grid has.
    """
    width, height = orig_wh
    if min(width, height, side) <= 0:
        raise UserError(f"sizes must be positive: picture {width}x{height}, tile {side}")
    if max_tiles < MIN_WANTED:
        raise UserError(f"max_tiles is {max_tiles}: the smallest grid of SliME has {MIN_WANTED} tiles")
    wanted = min(max(math.ceil(width * height / side**2), MIN_WANTED), MAX_WANTED, max_tiles)
    grids = [grid for grid in candidate_grids(wanted) if grid[0] * grid[1] <= max_tiles]
    canvases_hw = [(rows * side, columns * side) for columns, rows in grids]
    canvas_h, canvas_w = select_best_resolution((height, width), canvases_hw)
    resized_wh = fit_into(orig_wh, (canvas_w, canvas_h))
    offset_xy = ((canvas_w - resized_wh[0]) // 2, (canvas_h - resized_wh[1]) // 2)
    return TilePlan(orig_wh, side, (canvas_w // side, canvas_h // side), resized_wh, offset_xy)


def fit_into(orig_wh: tuple[int, int], canvas_wh: tuple[int, int]) -> tuple[int, int]:
    """The size that fills the canvas one way and, rounded up, keeps the aspect the other way."""
    scale_x, scale_y = canvas_wh[0] / orig_wh[0], canvas_wh[1] / orig_wh[1]
    if scale_x < scale_y:
        return canvas_wh[0], min(math.ceil(orig_wh[1] * scale_x), canvas_wh[1])
    return min(math.ceil(orig_wh[0] * scale_y), canvas_wh[0]), canvas_wh[1]


def whole_view(orig_wh: tuple[int, int], side: int) -> View:
    """The geometry of the global view: the whole picture stretched to a square."""
    return plan_view("stretch", orig_wh, side)


def render_whole(image_rgb_u8: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Pixels of the global view, uint8 [H, W, 3] -> [3, side, side]."""
    return np.ascontiguousarray(resize_pillow_u8(image_rgb_u8, side, side).transpose(2, 0, 1))


def render_tiles(image_rgb_u8: NDArray[np.uint8], plan: TilePlan) -> NDArray[np.uint8]:
    """Pixels of the tiles, uint8 [H, W, 3] -> [m, 3, side, side], row by row over the canvas."""
    (columns, rows), side = plan.grid_cr, plan.side
    canvas = np.zeros((rows * side, columns * side, 3), np.uint8)
    (width, height), (left, top) = plan.resized_wh, plan.offset_xy
    canvas[top : top + height, left : left + width] = resize_pillow_u8(image_rgb_u8, height, width)
    tiles = canvas.reshape(rows, side, columns, side, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(tiles.reshape(rows * columns, 3, side, side))
