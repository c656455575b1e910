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


def shrink_targets(masks: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Average binary masks [k, H, W] over the cells of a coarser plane: float32 [k, height, width] in [0, 1]."""
    if masks.shape[-2:] == (height, width):
        return masks.float()
    return functional.interpolate(masks[:, None].float(), size=(height, width), mode="area")[:, 0]
