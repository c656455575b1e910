"""Convolutions under autocast on a CPU: the way back of a bfloat16 one takes longer than that of a float32 one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def whole_precision(plane: torch.Tensor) -> AbstractContextManager[object]:
    """Leave autocast for the convolutions that read ``plane``, where it is float32 and on a CPU."""
    if plane.device.type != "cpu" or plane.dtype != torch.float32:
        return nullcontext()
    return torch.autocast("cpu", enabled=False)
