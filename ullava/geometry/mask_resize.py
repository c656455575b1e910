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

LONGEST_KEPT = 8192
"""Pixels of an axis up to which its matrix is remembered; a longer one is made anew each time."""


@lru_cache(maxsize=4096)
def _kept_matrix(lowres: int, square: int, kept: int, original: int) -> torch.Tensor:
    return _matrix(lowres, square, kept, original)


def _axis_matrix(lowres: int, square: int, kept: int, original: int) -> torch.Tensor:
    return (_kept_matrix if original <= LONGEST_KEPT else _matrix)(lowres, square, kept, original)


def _matrix(lowres: int, square: int, kept: int, original: int) -> torch.Tensor:
    """Return float32 [original, lowres]: what one axis of the three steps does to ``lowres`` samples."""
    with torch.inference_mode(False), torch.no_grad():
        unit = torch.eye(lowres)[None]
        wide = functional.interpolate(unit, size=square, mode="linear", align_corners=False)[..., :kept]
        return functional.interpolate(wide, size=original, mode="linear", align_corners=False)[0].T.contiguous()


def to_original(
    mask_logits_lowres: torch.Tensor, *, square: int, resized_hw: tuple[int, int], orig_hw: tuple[int, int]
) -> torch.Tensor:
    """Map logits [k, h, w] of images of one size to float32 [k, H, W].

    ``square``: side S in pixels; ``resized_hw``: the part of the square that the image covers.
    """
    logits = mask_logits_lowres.float()
    rows = _axis_matrix(logits.shape[-2], square, resized_hw[0], orig_hw[0]).to(logits.device)
    columns = _axis_matrix(logits.shape[-1], square, resized_hw[1], orig_hw[1]).to(logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        if rows.shape[0] <= columns.shape[0]:
            return torch.matmul(torch.matmul(rows, logits), columns.T)
        return torch.matmul(rows, torch.matmul(logits, columns.T))


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
