"""The box terms of a head that offers several boxes: expectation, masking, gradient of the choice."""

from __future__ import annotations

import pytest
import torch

from ullava.losses import expected_box_terms, giou_loss, l1_loss

TARGET = torch.tensor([[0.1, 0.1, 0.5, 0.5]])
GOOD, BAD = [0.1, 0.1, 0.5, 0.6], [0.6, 0.6, 0.9, 0.9]


def test_one_box_each_is_the_plain_loss() -> None:
    boxes = torch.rand(5, 4)
    boxes[:, 2:] += boxes[:, :2]
    target = torch.rand(5, 4)
    target[:, 2:] += target[:, :2]
    l1, giou = expected_box_terms(boxes[:, None], torch.zeros(5, 1), target)
    torch.testing.assert_close(l1, l1_loss(boxes, target))
    torch.testing.assert_close(giou, giou_loss(boxes, target))


def test_it_is_the_mean_under_the_shares_by_hand() -> None:
    boxes, logits = torch.tensor([[GOOD, BAD]]), torch.tensor([[0.0, 1.0]])
    l1, giou = expected_box_terms(boxes, logits, TARGET)
    share = logits.softmax(1)[0]
    assert float(l1) == pytest.approx(float(share[0] * 0.1 + share[1] * 1.8))
    hull = 0.8 * 0.8
    giou_bad = 0 - (hull - 0.16 - 0.09) / hull
    assert float(giou) == pytest.approx(float(share[0] * (1 - 0.16 / 0.2) + share[1] * (1 - giou_bad)), rel=1e-5)


def test_the_better_box_is_believed_more_and_moves_more() -> None:
    boxes = torch.tensor([[GOOD, BAD, BAD]], requires_grad=True)
    logits = torch.tensor([[1.0, 0.0, -torch.inf]], requires_grad=True)
    l1, giou = expected_box_terms(boxes, logits, TARGET)
    (l1 + giou).backward()
    assert logits.grad is not None and boxes.grad is not None
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1] and logits.grad[0, 2] == 0
    assert float(boxes.grad[0, 0].abs().sum()) > 0 and float(boxes.grad[0, 2].abs().sum()) == 0
