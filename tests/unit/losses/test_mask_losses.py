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


def test_every_mask_counts_the_same_whatever_its_picture():
    generator = torch.Generator().manual_seed(2)
    logits = [torch.randn(2, 4, 6, generator=generator), torch.randn(1, 9, 3, generator=generator)]
    targets = [values.flip(-1) > 0 for values in logits]
    bce, dice = losses.mask_losses(logits, targets)
    each = [losses.bce_per_mask(a, b) for a, b in zip(logits, targets, strict=True)]
    assert bce.item() == pytest.approx(torch.cat(each).mean().item())
    each = [losses.dice_per_mask(a, b) for a, b in zip(logits, targets, strict=True)]
    assert dice.item() == pytest.approx(torch.cat(each).mean().item())
    assert losses.mask_losses(logits, targets, num_masks=6)[0].item() == pytest.approx(bce.item() / 2)


def test_no_mask_gives_zero_that_can_be_differentiated():
    logits = torch.zeros(0, 4, 4, requires_grad=True)
    bce, dice = losses.mask_losses([logits], [torch.zeros(0, 4, 4, dtype=torch.bool)])
    (bce + dice).backward()
    assert bce.item() == dice.item() == 0
    assert logits.grad is not None
    assert [term.item() for term in losses.mask_losses([], [])] == [0, 0]


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="one \\[n, H, W\\]"):
        losses.bce_per_mask(torch.zeros(1, 4, 4), torch.zeros(1, 4, 5))
    with pytest.raises(ValueError, match="zip"):
        losses.mask_losses([torch.zeros(1, 4, 4)], [])


def test_iou_of_masks_by_hand():
    logits = torch.tensor([[[1.0, 1.0, -1.0, -1.0]], [[-1.0] * 4], [[-1.0] * 4]])
    targets = torch.tensor([[[0, 1, 1, 0]], [[0, 1, 1, 0]], [[0, 0, 0, 0]]])
    assert losses.mask_iou_per_mask(logits, targets).tolist() == pytest.approx([1 / 3, 0, 1])
    scores = torch.tensor([1 / 3, 0.5, 1.0], requires_grad=True)
    loss = losses.iou_score_loss(scores, [logits[:1], logits[1:]], [targets[:1], targets[1:]])
    assert loss.item() == pytest.approx(0.25 / 3)
    loss.backward()
    assert scores.grad.tolist() == pytest.approx([0, 1 / 3, 0], abs=1e-6)
    with pytest.raises(ValueError, match="3 scores for 2 masks"):
        losses.iou_score_loss(scores, [logits[1:]], [targets[1:]])


def test_no_score_gives_zero():
    assert losses.iou_score_loss(torch.zeros(0), [], []).item() == 0
