"""Linear layers by oneDNN in place of BLAS, where no gradient is kept.

torch gives float32 products on a CPU to MKL, which uses half of the width of the vector units of processors that are
not Intel's. oneDNN, which torch carries for convolutions, uses all of it: 220 against 104 GFLOP/s on one core of an
AMD EPYC (Zen 5). Same numbers up to rounding. On processors with narrower units (AVX2) nothing was gained, so BLAS does
it there, and where this build of torch has no oneDNN. Chosen by the instruction set and never by a clock: a machine
answers the same way every time.
"""

from __future__ import annotations

from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

FEW_ROWS = 16
"""Up to so many rows a wide weight is read row by row."""


def wide_units() -> bool:
    """Whether the vector units are 512 bits wide: what decides between ways that are equal up to rounding."""
    return bool(torch.backends.cpu.get_cpu_capability() == "AVX512")


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``inputs`` [..., n] @ ``weight`` [m, n] transposed (+ ``bias`` [m]) -> [..., m], like torch's own."""
    if not _fits(inputs, weight):
        return functional.linear(inputs, weight, bias)
    made: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return made


def apply_linear(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Call ``layer``; a plain ``nn.Linear`` by ``linear``, whatever wraps one (LoRA) by itself."""
    if type(layer) is nn.Linear:
        return linear(inputs, layer.weight, layer.bias)
    made: Tensor = layer(inputs)
    return made


def words_of_few(head: nn.Module, inputs: Tensor) -> Tensor:
    """Call a language head on ``inputs`` [..., n] -> [..., V], a wide one of a few rows the other way round.

    MKL then goes through the weight once for all rows: 3.1 in place of 4.9 ms for 8 rows, 128 x 32,011, on Zen 3.
    """
    rows = inputs.numel() // max(1, inputs.shape[-1])
    few = 1 < rows <= FEW_ROWS and not wide_units()
    if type(head) is nn.Linear and head.bias is None and few and _whole(head.weight) and _plain(inputs, head.weight):
        return torch.mm(head.weight, inputs.reshape(rows, -1).T).T.reshape(*inputs.shape[:-1], -1)
    return cast(Tensor, head(inputs))


def linear_added(base: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    """``base`` [p, m] + ``inputs`` [p, n] @ ``weight`` [m, n] transposed, in one pass over what is made."""
    if not _fits(inputs, weight):
        return torch.addmm(base, inputs, weight.T)
    made: Tensor = torch.ops.mkldnn._linear_pointwise.binary(inputs, base, weight, None, "add")
    return made


def _fits(inputs: Tensor, weight: Tensor) -> bool:
    return _plain(inputs, weight) and _available()


def _whole(weight: Tensor) -> bool:
    """Neither shared out by ZeRO-3 nor to be rounded by autocast."""
    return not hasattr(weight, "ds_id") and not torch.is_autocast_enabled("cpu")


def _plain(inputs: Tensor, weight: Tensor) -> bool:
    plain = inputs.device.type == weight.device.type == "cpu" and inputs.dtype == weight.dtype == torch.float32
    return plain and inputs.numel() > 0 and not torch.is_grad_enabled()


@cache
def _available() -> bool:
    """Whether the units are wide, torch has oneDNN and still the operator by which its own compiler calls it."""
    return wide_units() and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
