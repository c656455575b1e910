"""The mask terms of u-LLaVA: BCE and Dice of each mask, and the IoU that its predicted quality is held against.

All arithmetic is float32: a Dice sum
over an image's pixels overflows float16 and loses its last masks in bfloat16.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

DICE_SCALE = 1000.0
DICE_EPSILON = 1e-6


def bce_per_mask(logits: Tensor, targets: Tensor) -> Tensor:
    """Return binary cross-entropy [n], the mean over the pixels of each mask.

    Args:
        logits: [n, H, W].
        targets: [n, H, W], bool or 0/1 numbers.
    """
    _check_same_size(logits, targets)
    pixels = functional.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
    return pixels.flatten(1).mean(1)


def dice_per_mask(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - Dice [n] on probabilities p = sigmoid(logits).

    ``1 - (2 sum(p t) / 1000 + 1e-6) / ((sum p + sum t) / 1000 + 1e-6)``. An empty target with p = 0 gives 0.

    Args:
        logits: [n, H, W].
        targets: [n, H, W], bool or 0/1 numbers.
    """
    _check_same_size(logits, targets)
    probabilities, truth = logits.float().sigmoid().flatten(1), targets.float().flatten(1)
    overlap = (probabilities * truth).sum(1) / DICE_SCALE
    total = (probabilities.sum(1) + truth.sum(1)) / DICE_SCALE
    return 1 - (2 * overlap + DICE_EPSILON) / (total + DICE_EPSILON)


def mask_iou_per_mask(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the IoU [n] of ``logits > 0`` with ``targets``, both [n, H, W]; without gradient. Empty on empty is 1."""
    _check_same_size(logits, targets)
    predicted, truth = (logits.detach() > 0).flatten(1), targets.bool().flatten(1)
    union = (predicted | truth).sum(1)
    return torch.where(union > 0, (predicted & truth).sum(1) / union.clamp(min=1), 1.0)


def _check_same_size(logits: Tensor, targets: Tensor) -> None:
    if logits.shape != targets.shape or logits.ndim != 3:
        raise ValueError(f"mask logits {tuple(logits.shape)} and targets {tuple(targets.shape)} must be one [n, H, W]")
