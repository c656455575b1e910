"""The language term."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ullava.text.tokens import IGNORE_LABEL


def token_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of the supervised tokens, averaged over them: a float32 scalar.

    Args:
        logits: [n, V], row i predicts ``labels[i]`` (already shifted).
        labels: [n] token ids; -100 is left out of sum and count.

    Nothing supervised gives 0, which still carries a (zero) gradient to ``logits``.
    """
    total = functional.cross_entropy(logits.float(), labels, ignore_index=IGNORE_LABEL, reduction="sum")
    return total / (labels != IGNORE_LABEL).sum().clamp(min=1).to(total.dtype)


def row_surprises(logits: Tensor, targets: Tensor, labels: Tensor) -> list[tuple[float, int]]:
    """Return for each row of a batch the sum of -ln p of its supervised tokens, and how many there are.

    Args:
        logits: [n, V], row i predicts ``targets[i]``; n are the supervised tokens of all rows, in reading order.
        targets: [n] token ids.
        labels: [B, L] the rows' labels as they were given, not shifted.
    """
    nats = functional.cross_entropy(logits.float(), targets, reduction="none").cpu().double()
    counts = (labels[:, 1:] != IGNORE_LABEL).sum(dim=1).tolist()
    return [(float(part.sum()), len(part)) for part in torch.split(nats, counts)]
