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


def test_window_of_accumulated_batches_sums_to_the_whole():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 2, 3, 4, 5])
    parts = [token_cross_entropy(logits[part], labels[part], num_items=5) for part in (slice(0, 1), slice(1, 5))]
    assert sum(parts).item() == pytest.approx(token_cross_entropy(logits, labels).item())


@pytest.mark.parametrize("labels", [torch.zeros(0, dtype=torch.long), torch.tensor([-100, -100])])
def test_nothing_supervised_gives_zero_that_can_be_differentiated(labels):
    logits = torch.zeros(len(labels), 4, requires_grad=True)
    loss = token_cross_entropy(logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and not logits.grad.any()


def test_half_precision_is_widened():
    assert token_cross_entropy(torch.zeros(1, 4).bfloat16(), torch.tensor([0])).dtype == torch.float32
