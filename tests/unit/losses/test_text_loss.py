from __future__ import annotations

import math

import pytest
import torch

from ullava.losses import token_cross_entropy


def test_by_hand_and_masked_labels_do_not_count():
    logits = torch.zeros(3, 4)
    assert token_cross_entropy(logits, torch.tensor([0, 1, 3])).item() == pytest.approx(math.log(4))
    logits[1] = torch.tensor([0.0, 50.0, 0.0, 0.0])
    assert token_cross_entropy(logits, torch.tensor([0, -100, 3])).item() == pytest.approx(math.log(4))
    assert token_cross_entropy(logits, torch.tensor([0, 1, -100])).item() == pytest.approx(math.log(4) / 2)


@pytest.mark.parametrize("labels", [torch.zeros(0, dtype=torch.long), torch.tensor([-100, -100])])
def test_nothing_supervised_gives_zero_that_can_be_differentiated(labels):
    logits = torch.zeros(len(labels), 4, requires_grad=True)
    loss = token_cross_entropy(logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and not logits.grad.any()


def test_half_precision_is_widened():
    assert token_cross_entropy(torch.zeros(1, 4).bfloat16(), torch.tensor([0])).dtype == torch.float32
