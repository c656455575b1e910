"""A linear layer in 8 bits on a CPU: weights rounded once, products of whole numbers.

torch's own layers of this kind (``torch.ao.quantization``) are announced to go, and torchao's spend more on the way to
``torch._int_mm`` than that takes; it is called here directly. Inputs are rounded twice, the second time what the first
left over, and both go through one product: masks are read at states that 8 bits alone blur (docs/quantization.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGEST = 127
"""Of the whole numbers that a row is scaled to; -128 stays unused, so that both signs are rounded alike."""
REST = 2 * LARGEST
"""What is left of an input after rounding, half a step at most, times this is a whole number of 8 bits again."""
_SMALLEST_SCALE = 1e-12


class Int8Linear(nn.Module):
    """What an ``nn.Linear`` does, within 8 bits: y [..., m] from x [..., n], of the type of x.

    ``weight_int8`` [m, n] int8 times ``scale`` [m] float32 is the weight. Nothing of it trains, and no gradient runs
    through it: rounding has none.
    """

    weight_int8: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach().float()
        scale = _scale(weight)
        self.register_buffer("weight_int8", (weight / scale).round_().to(torch.int8))
        self.register_buffer("scale", scale.squeeze(1))
        self.bias = layer.bias

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """``inputs`` [..., n] -> [..., m]."""
        rows = inputs.reshape(-1, self.in_features).float()
        if not len(rows):
            return inputs.new_zeros(*inputs.shape[:-1], self.out_features)
        scale = _scale(rows)
        scaled = rows / scale
        whole = scaled.round()
        rest = (scaled - whole).mul_(REST).round_()
        both = torch.cat([whole, rest]).to(torch.int8)
        made = torch._int_mm(both, self.weight_int8.t()).float()
        made = made[: len(rows)].add_(made[len(rows) :], alpha=1 / REST).mul_(scale).mul_(self.scale)
        if self.bias is not None:
            made += self.bias
        return made.to(inputs.dtype).view(*inputs.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """The sizes, as nn.Linear tells them."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def _scale(rows: Tensor) -> Tensor:
    """What each row [p, n] is divided by so that whole numbers of 8 bits hold it: float32 [p, 1]."""
    return rows.abs().amax(dim=1, keepdim=True).clamp_(min=_SMALLEST_SCALE).div_(LARGEST)
