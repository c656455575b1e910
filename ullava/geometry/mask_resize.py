"""From a low-resolution plane of mask logits to the original image: one map for training and for inference.

SAM's post-processing (bilinear to the S x S square, crop to the resized h x w, bilinear to the original H x W) is
linear and separable, so rows and columns each go through one matrix: ``out = rows @ logits @ columns.T``. The matrices
are read off ``interpolate`` itself, hence the values agree with it to rounding, no S x S plane is ever held, and the
backward pass is two products.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.nn import functional

from ullava.geometry.views import View

LONGEST_BY_MATRIX = 8192
"""Pixels of an axis up to which it goes through a matrix, which is remembered; a longer one is interpolated."""


@lru_cache(maxsize=4096)
def _axis_matrix(lowres: int, square: int, kept: int, original: int) -> torch.Tensor:
    """Return float32 [original, lowres]: what one axis of the three steps does to ``lowres`` samples."""
    with torch.inference_mode(False), torch.no_grad():
        return _interpolated(torch.eye(lowres), square, kept, original).T.contiguous()


def _interpolated(rows: torch.Tensor, square: int, kept: int, original: int) -> torch.Tensor:
    """The three steps along the last axis of ``rows`` [n, lowres] -> [n, original]."""
    wide = functional.interpolate(rows[None], size=square, mode="linear", align_corners=False)[..., :kept]
    return functional.interpolate(wide, size=original, mode="linear", align_corners=False)[0]


def _along_rows(planes: torch.Tensor, square: int, kept: int, original: int) -> torch.Tensor:
    """[k, lowres, w] -> [k, original, w], one axis of the three steps."""
    if original > LONGEST_BY_MATRIX:
        return _along_columns(planes.transpose(-2, -1), square, kept, original).transpose(-2, -1)
    return torch.matmul(_axis_matrix(planes.shape[-2], square, kept, original).to(planes.device), planes)


def _along_columns(planes: torch.Tensor, square: int, kept: int, original: int) -> torch.Tensor:
    """[k, h, lowres] -> [k, h, original], one axis of the three steps."""
    if original > LONGEST_BY_MATRIX:
        return _interpolated(planes.flatten(0, 1), square, kept, original).view(*planes.shape[:2], original)
    return torch.matmul(planes, _axis_matrix(planes.shape[-1], square, kept, original).to(planes.device).T)


def to_original(
    mask_logits_lowres: torch.Tensor, *, square: int, resized_hw: tuple[int, int], orig_hw: tuple[int, int]
) -> torch.Tensor:
    """Map logits [k, h, w] of images of one size to float32 [k, H, W].

    ``square``: side S in pixels; ``resized_hw``: the part of the square that the image covers.
    """
    planes = mask_logits_lowres.float()
    with torch.autocast(planes.device.type, enabled=False):
        if orig_hw[0] <= orig_hw[1]:  # the longer axis last
            planes = _along_rows(planes, square, resized_hw[0], orig_hw[0])
            return _along_columns(planes, square, resized_hw[1], orig_hw[1])
        planes = _along_columns(planes, square, resized_hw[1], orig_hw[1])
        return _along_rows(planes, square, resized_hw[0], orig_hw[0])


def covered_lowres(mask_logits_lowres: torch.Tensor, *, square: int, resized_hw: tuple[int, int]) -> torch.Tensor:
    """Return the float32 part [k, h', w'] of the low-resolution plane that the image covers (at least one pixel)."""
    height, width = mask_logits_lowres.shape[-2:]
    rows = max(1, round(height * resized_hw[0] / square))
    columns = max(1, round(width * resized_hw[1] / square))
    return mask_logits_lowres[..., :rows, :columns].float()


@lru_cache(maxsize=4096)
def _cells_of_axis(cells: int, side: int, scale: float, offset: float, original: int) -> torch.Tensor:
    """Return float32 [original, cells]: the shares of a view's cells in every pixel along one axis of an image."""
    with torch.inference_mode(False), torch.no_grad():
        low, share = _between_cells(cells, side, scale, offset, original)
        weights = torch.zeros(original, cells)
        weights.scatter_add_(1, low[:, None], (1 - share)[:, None])
        return weights.scatter_add_(1, (low + 1).clamp(max=cells - 1)[:, None], share[:, None])


def _between_cells(
    cells: int, side: int, scale: float, offset: float, original: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """For every pixel along an axis the cell before its center and the share [original] of the cell after it."""
    center = (torch.arange(original, dtype=torch.float64) + 0.5) * scale + offset
    place = (center * (cells / side) - 0.5).clamp(0, cells - 1)
    low = place.floor()
    return low.long(), (place - low).float()


def _rows_of_view(planes: torch.Tensor, side: int, scale: float, offset: float, original: int) -> torch.Tensor:
    """[k, cells, w] of a view of ``side`` -> [k, original, w]."""
    cells = planes.shape[-2]
    if original <= LONGEST_BY_MATRIX:
        return torch.matmul(_cells_of_axis(cells, side, scale, offset, original).to(planes.device), planes)
    low, share = (value.to(planes.device) for value in _between_cells(cells, side, scale, offset, original))
    return torch.lerp(planes[:, low], planes[:, (low + 1).clamp(max=cells - 1)], share[:, None])


def view_to_original(mask_logits_lowres: torch.Tensor, view: View) -> torch.Tensor:
    """Map logits [k, h, w] on cells that share out ``view`` to float32 [k, H, W] of the original image, bilinearly."""
    planes = mask_logits_lowres.float()
    (width, height), (view_width, view_height) = view.orig_wh, view.size_wh
    (scale_x, scale_y), (offset_x, offset_y) = view.scale_xy, view.offset_xy
    with torch.autocast(planes.device.type, enabled=False):
        if height <= width:  # the longer axis last
            planes = _rows_of_view(planes, view_height, scale_y, offset_y, height)
            return _rows_of_view(planes.transpose(-2, -1), view_width, scale_x, offset_x, width).transpose(-2, -1)
        planes = _rows_of_view(planes.transpose(-2, -1), view_width, scale_x, offset_x, width).transpose(-2, -1)
        return _rows_of_view(planes, view_height, scale_y, offset_y, height)


def covered_of_view(mask_logits_lowres: torch.Tensor, view: View) -> torch.Tensor:
    """Return the float32 part [k, h', w'] of cells that share out ``view`` which the image covers (at least one)."""
    planes = mask_logits_lowres.float()
    for axis, place in ((-1, 0), (-2, 1)):
        cells = planes.shape[axis] / view.size_wh[place]
        start = view.offset_xy[place] * cells
        first = min(round(start), planes.shape[axis] - 1)
        last = max(round(start + view.scale_xy[place] * view.orig_wh[place] * cells), first + 1)
        planes = planes.narrow(axis, first, min(last, planes.shape[axis]) - first)
    return planes


def shrink_targets(masks: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Average binary masks [k, H, W] over the cells of a coarser plane: float32 [k, height, width] in [0, 1]."""
    if masks.shape[-2:] == (height, width):
        return masks.float()
    return functional.interpolate(masks[:, None].float(), size=(height, width), mode="area")[:, 0]
