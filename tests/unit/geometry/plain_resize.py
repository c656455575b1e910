"""SAM's post-processing step by step, as the reference for the one map that the product has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional


def interpolated(
    logits: torch.Tensor, *, side: int, resized_hw: Sequence[int], original_hw: Sequence[int]
) -> torch.Tensor:
    """Logits [k, h, w] -> [k, S, S] -> padding cut off -> [k, H, W], bilinear."""
    square = functional.interpolate(logits.float()[:, None], (side, side), mode="bilinear", align_corners=False)
    content = square[..., : resized_hw[0], : resized_hw[1]]
    return functional.interpolate(content, tuple(original_hw), mode="bilinear", align_corners=False)[:, 0]
