"""The language term."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ullava.text.tokens import IGNORE_LABEL


def token_cross_entropy(logits: Tensor, labels: Tensor, num_items: Tensor | float | None = None) -> Tensor:
    """Return the cross-entropy of the supervised tokens, averaged over them: a float32 scalar.

    Args:
        logits: [n, V], row i predicts ``labels[i]`` (already shifted).
        labels: [n] token ids; -100 is left out of sum and count.
        num_items: divide the sum by this instead of by the count, e.g. the supervised tokens of a whole
            gradient-accumulation window.

    Nothing supervised gives 0, which still carries a (zero) gradient to ``logits``.
    """
    total = functional.cross_entropy(logits.float(), labels, ignore_index=IGNORE_LABEL, reduction="sum")
    if num_items is None:
        num_items = (labels != IGNORE_LABEL).sum().clamp(min=1)
    return total / torch.as_tensor(num_items, device=total.device, dtype=total.dtype)
