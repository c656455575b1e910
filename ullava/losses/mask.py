"""The mask terms of u-LLaVA (spec/ullava.md 2.5): BCE and Dice of each mask, averaged over the masks of a batch.

Pictures of a batch differ in size, so masks come as one tensor for each picture. All arithmetic is float32: a Dice sum
over a picture's pixels overflows float16 and loses its last masks in bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

DICE_SCALE = 1000.0
DICE_EPSILON = 1e-6
COUNT_EPSILON = 1e-8


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


def mask_losses(
    logits: Sequence[Tensor], targets: Sequence[Tensor], num_masks: Tensor | float | None = None
) -> tuple[Tensor, Tensor]:
    """Return (BCE, Dice), each summed over all masks of a batch and divided by their number.

    Args:
        logits: one [n_i, H_i, W_i] for each picture; n_i may be 0.
        targets: the same shapes.
        num_masks: divide by this instead of by the count (gradient accumulation, several processes).

    No mask at all gives zeros, which still carry a (zero) gradient to ``logits``. Without any picture they are plain
    zeros on the CPU.
    """
    bce, dice = torch.zeros(()), torch.zeros(())
    for picture, (mask_logits, mask_targets) in enumerate(zip(logits, targets, strict=True)):
        bce_sum, dice_sum = (
            bce_per_mask(mask_logits, mask_targets).sum(),
            dice_per_mask(mask_logits, mask_targets).sum(),
        )
        bce, dice = (bce_sum, dice_sum) if picture == 0 else (bce + bce_sum, dice + dice_sum)
    count = sum(len(mask_logits) for mask_logits in logits) if num_masks is None else num_masks
    return bce / (count + COUNT_EPSILON), dice / (count + COUNT_EPSILON)


def mask_iou_per_mask(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the IoU [n] of ``logits > 0`` with ``targets``, both [n, H, W]; without gradient. Empty on empty is 1."""
    _check_same_size(logits, targets)
    predicted, truth = (logits.detach() > 0).flatten(1), targets.bool().flatten(1)
    union = (predicted | truth).sum(1)
    return torch.where(union > 0, (predicted & truth).sum(1) / union.clamp(min=1), 1.0)


def iou_score_loss(iou_scores: Tensor, logits: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Return the mean squared error of predicted mask qualities against the real IoU (how SAM trains its score).

    Args:
        iou_scores: [K], in the order of the masks of ``logits``.
        logits: one [n_i, H_i, W_i] for each picture, sum of n_i = K.
        targets: the same shapes.
    """
    each = [mask_iou_per_mask(mask_logits, truth) for mask_logits, truth in zip(logits, targets, strict=True)]
    real = torch.cat(each) if each else iou_scores.new_zeros(0)
    if real.shape != iou_scores.shape:
        raise ValueError(f"{iou_scores.shape[0]} scores for {real.shape[0]} masks")
    return (iou_scores.float() - real.float()).square().sum() / max(1, real.shape[0])


def _check_same_size(logits: Tensor, targets: Tensor) -> None:
    if logits.shape != targets.shape or logits.ndim != 3:
        raise ValueError(f"mask logits {tuple(logits.shape)} and targets {tuple(targets.shape)} must be one [n, H, W]")
