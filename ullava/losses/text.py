"""The language term."""

from __future__ import annotations

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
