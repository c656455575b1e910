from __future__ import annotations

import math

import pytest
import torch

from ullava import losses


def test_by_hand():
    logits = torch.zeros(1, 2, 2)
    targets = torch.tensor([[[1, 1], [0, 0]]])
    assert losses.bce_per_mask(logits, targets).item() == pytest.approx(math.log(2))
    # p = 1/2 everywhere: overlap 1, total 2 + 2.
    assert losses.dice_per_mask(logits, targets).item() == pytest.approx(0.5, abs=1e-3)


def test_bool_and_numbers_agree_and_half_precision_is_widened():
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(1))
    targets = logits > 0.3
    for term in (losses.bce_per_mask, losses.dice_per_mask):
        assert torch.equal(term(logits, targets), term(logits, targets.to(torch.uint8)))
        assert term(logits.bfloat16(), targets).dtype == torch.float32


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="one \\[n, H, W\\]"):
        losses.bce_per_mask(torch.zeros(1, 4, 4), torch.zeros(1, 4, 5))


def test_iou_of_masks_by_hand():
    logits = torch.tensor([[[1.0, 1.0, -1.0, -1.0]], [[-1.0] * 4], [[-1.0] * 4]])
    targets = torch.tensor([[[0, 1, 1, 0]], [[0, 1, 1, 0]], [[0, 0, 0, 0]]])
    assert losses.mask_iou_per_mask(logits, targets).tolist() == pytest.approx([1 / 3, 0, 1])
