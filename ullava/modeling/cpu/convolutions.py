"""Convolutions under autocast on a CPU: the way back of a bfloat16 one takes longer than that of a float32 one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def whole_precision(plane: torch.Tensor, layers: nn.Module | None = None) -> AbstractContextManager[object]:
    """Leave autocast for the convolutions that read ``plane``, where it is float32 and on a CPU.

    ``layers``: those convolutions, which have to be float32 as well: some that rest are not (``base_dtype``).
    """
    weights = () if layers is None else layers.parameters()
    if plane.device.type != "cpu" or any(value.dtype != torch.float32 for value in (plane, *weights)):
        return nullcontext()
    return torch.autocast("cpu", enabled=False)
