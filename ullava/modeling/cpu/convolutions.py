"""Leaving autocast: on a CPU the way back of a bfloat16 convolution takes longer than that of a float32 one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def outside_autocast(plane: torch.Tensor, layers: nn.Module | None = None) -> AbstractContextManager[object]:
    """Leave autocast for what ``layers`` make of ``plane``, where both are float32.

    Layers that rest may be held in bfloat16 (``base_dtype``); they run as the pass around them does.
    """
    weights = () if layers is None else layers.parameters()
    if any(value.dtype != torch.float32 for value in (plane, *weights)):
        return nullcontext()
    return torch.autocast(plane.device.type, enabled=False)


def whole_precision(plane: torch.Tensor, layers: nn.Module | None = None) -> AbstractContextManager[object]:
    """``outside_autocast`` on a CPU, for the convolutions ``layers`` that read ``plane``."""
    return outside_autocast(plane, layers) if plane.device.type == "cpu" else nullcontext()
