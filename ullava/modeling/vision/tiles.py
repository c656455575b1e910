"""An image on a canvas of square tiles: where it lies, and the pixels of its crops (AVG-LLaVA, SliME).

Sizes are written (width, height), grids (columns, rows).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ullava.geometry import Boxes, View, clip_boxes_px, plan_view
from ullava.modeling.pixels import resize_pillow_u8


@dataclass(frozen=True, slots=True)
class TilePlan:
    """An image on its canvas: ``grid_cr`` columns and rows of square tiles of ``side`` pixels.

    The image is resized to ``resized_wh`` and pasted with its upper left corner at ``offset_xy``; the rest is black.
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

    def canvas(self) -> View:
        """The geometry of the whole canvas."""
        scale = (self.resized_wh[0] / self.orig_wh[0], self.resized_wh[1] / self.orig_wh[1])
        corner = (float(self.offset_xy[0]), float(self.offset_xy[1]))
        canvas_wh = (self.grid_cr[0] * self.side, self.grid_cr[1] * self.side)
        return View("canvas_tile", self.orig_wh, scale, corner, canvas_wh)

    def cell_boxes_xyxy_px(self, cells: int) -> Boxes:
        """Where the tokens of the tiles look: boxes [m cells^2, 4] in original pixels, row by row over the canvas.

        ``cells``: tokens along a side of a tile. Boxes are cut at the image's border; those of padding are empty.
        """
        columns, rows = self.grid_cr[0] * cells, self.grid_cr[1] * cells
        corners = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
        boxes = np.concatenate([corners, corners + 1], axis=1) * (self.side / cells)
        return clip_boxes_px(self.canvas().to_orig(boxes), self.orig_wh)

    def views(self) -> list[View]:
        """The geometry of every tile, row by row over the canvas."""
        canvas = self.canvas()
        columns, rows = self.grid_cr
        square = (self.side, self.side)
        return [canvas.crop(x * self.side, y * self.side, square) for y in range(rows) for x in range(columns)]


def fit_into(orig_wh: tuple[int, int], canvas_wh: tuple[int, int]) -> tuple[int, int]:
    """The size that fills the canvas one way and, rounded up, keeps the aspect the other way."""
    scale_x, scale_y = canvas_wh[0] / orig_wh[0], canvas_wh[1] / orig_wh[1]
    if scale_x < scale_y:
        return canvas_wh[0], min(math.ceil(orig_wh[1] * scale_x), canvas_wh[1])
    return min(math.ceil(orig_wh[0] * scale_y), canvas_wh[0]), canvas_wh[1]


def whole_view(orig_wh: tuple[int, int], side: int) -> View:
    """The geometry of the global view: the whole image stretched to a square."""
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
