"""AVG-LLaVA's geometry: which canvas an image gets, how coarse its tokens may be, and which of them are padding.

An image is seen whole, stretched to a square (the base crop), and cut into tiles from a canvas. The scaler averages
the tokens of every crop over a kernel; then the tiles are put together and rows and columns of padding dropped
(section on architecture; arXiv 2410.02745). Sizes are (width, height) unless a name says ``hw``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional
from transformers.image_processing_utils import select_best_resolution

from ullava.errors import UserError
from ullava.modeling.vision.tiles import TilePlan, fit_into

Unpad = Literal["pixels", "cells"]

CANVASES = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""Canvases in tiles (columns, rows), in the published order."""

KERNELS_HW = ((4, 4), (2, 4), (2, 2), (1, 2), (1, 1))
"""How many neighboring tokens each level averages, (rows, columns), coarsest first."""


def levels_of(grid_side: int, kernels: int = len(KERNELS_HW)) -> tuple[int, ...]:
    """Tokens per crop of every level of a square grid, coarsest first (24 -> 36, 72, 144, 288, 576).

    Raises UserError for a grid that the coarsest kernel does not divide.
    """
    if grid_side % KERNELS_HW[-kernels][0] or grid_side % KERNELS_HW[-kernels][1]:
        raise UserError(f"a grid of {grid_side} x {grid_side} patches cannot be averaged over 4 x 4 of them")
    return tuple(grid_side * grid_side // (rows * columns) for rows, columns in KERNELS_HW[-kernels:])


def kernel_of(grid_side: int, level: int) -> tuple[int, int]:
    """Rows and columns that ``level`` tokens per crop average. Raises UserError for a level that the grid has not."""
    known = levels_of(grid_side)
    if level not in known:
        raise UserError(f"no granularity of {level} tokens; a grid of {grid_side} x {grid_side} has {known}")
    return KERNELS_HW[known.index(level)]


def scale_tokens(states: torch.Tensor, level: int) -> torch.Tensor:
    """The granularity scaler: [crops, G * G, D] row by row -> [crops, ``level``, D], each the mean of its kernel."""
    side = round(states.shape[1] ** 0.5)
    kernel = kernel_of(side, level)
    if kernel == (1, 1):
        return states
    plane = states.transpose(1, 2).unflatten(2, (side, side))
    return functional.avg_pool2d(plane, kernel).flatten(2).transpose(1, 2)


def plan_canvas(orig_wh: tuple[int, int], side: int, canvases: Sequence[tuple[int, int]] = CANVASES) -> TilePlan:
    """Choose the canvas that keeps most of the image's pixels, then the one that wastes least, and lay it there.

    Raises UserError for a size that is not positive, or no canvas to choose from.
    """
    if min(*orig_wh, side) <= 0 or not canvases:
        raise UserError(f"an image of {orig_wh[0]}x{orig_wh[1]} finds no canvas of tiles of {side} pixels")
    sizes_hw = [(rows * side, columns * side) for columns, rows in canvases]
    canvas_h, canvas_w = select_best_resolution((orig_wh[1], orig_wh[0]), sizes_hw)
    resized = fit_into(orig_wh, (canvas_w, canvas_h))
    offset = ((canvas_w - resized[0]) // 2, (canvas_h - resized[1]) // 2)
    return TilePlan(orig_wh, side, (canvas_w // side, canvas_h // side), resized, offset)


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """Where the tokens of one image lie at one level.

    ``crop_hw``: rows and columns of one crop's tokens; ``rows``, ``columns``: the half-open part of the canvas of
    tiles that holds the image. Base tokens come first, then every kept row followed by one newline.
    """

    crop_hw: tuple[int, int]
    tiles_cr: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def num_newlines(self) -> int:
        """One for every kept row."""
        return self.rows[1] - self.rows[0]

    @property
    def num_tokens(self) -> int:
        """Base tokens, kept tokens of the canvas, newlines."""
        return self.crop_hw[0] * self.crop_hw[1] + self.num_newlines * (self.columns[1] - self.columns[0] + 1)


def plan_layout(plan: TilePlan, grid_side: int, level: int, unpad: Unpad = "pixels") -> TokenLayout:
    """Lay out the tokens of an image at ``level``.

    ``pixels`` finds the padding in pixels and turns it into cells; something of the image always stays. ``cells`` is
    the released way: it takes cells for square, so that it cuts off much of the image at the levels whose cells are
    twice as wide as high, and all of a very long one.
    """
    kernel = kernel_of(grid_side, level)
    crop_hw = (grid_side // kernel[0], grid_side // kernel[1])
    columns, rows = plan.grid_cr[0] * crop_hw[1], plan.grid_cr[1] * crop_hw[0]
    width, height = plan.orig_wh
    (high_unit, wide_unit), least = ((1, 1), 0) if unpad == "cells" else (kernel, 1)
    wide, high = columns * wide_unit, rows * high_unit
    cut_rows = cut_columns = 0
    if width / height > wide / high:
        cut_rows = (rows - max(int(round(height * (wide / width) / high_unit, 7)), least)) // 2
    else:
        cut_columns = (columns - max(int(round(width * (high / height) / wide_unit, 7)), least)) // 2
    return TokenLayout(crop_hw, plan.grid_cr, _kept(rows, cut_rows), _kept(columns, cut_columns))


def _kept(length: int, cut: int) -> tuple[int, int]:
    return cut, max(length - cut, cut)


def lay_out(states: torch.Tensor, layout: TokenLayout, newline: torch.Tensor) -> torch.Tensor:
    """Tokens [N, D] of one image from its scaled crops [1 + tiles, level, D], base crop first, tiles row by row."""
    base, tiles = states[0], states[1:]
    columns, rows = layout.tiles_cr
    plane = tiles.unflatten(1, layout.crop_hw).unflatten(0, (rows, columns)).permute(0, 2, 1, 3, 4)
    plane = plane.flatten(2, 3).flatten(0, 1)[slice(*layout.rows), slice(*layout.columns)]
    ends = newline.to(plane.dtype).expand(len(plane), 1, -1)
    return torch.cat([base, torch.cat([plane, ends], dim=1).flatten(0, 1)])
