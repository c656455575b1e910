"""A linear layer in 8 or 4 bits as far as its memory goes: packed weights, unpacked for each product and not kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

COMPUTED = torch.bfloat16
SCALES = 64
"""So many weights of nf4 share a scale of 8 bits, and so many of these, times four, one of float32."""


class PackedLinear(nn.Module):
    """A stand-in for bitsandbytes' layers on the meta device: ``weight`` uint8 holds as many bytes, in one row."""

    def __init__(self, layer: nn.Linear, kind: str) -> None:
        super().__init__()
        self.shape = (layer.out_features, layer.in_features)
        numbers = layer.out_features * layer.in_features
        size = numbers + 4 * layer.out_features
        if kind == "nf4":
            size = numbers // 2 + numbers // SCALES + numbers // SCALES**2
        packed = torch.empty(size, dtype=torch.uint8, device=layer.weight.device)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """``inputs`` [..., n] -> [..., m], of their type."""
        made: Tensor = _Product.apply(inputs, self.weight, self.bias, self.shape)
        return made


class _Product(torch.autograd.Function):
    """What bitsandbytes keeps for the way back is the packed weight alone."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, packed: Tensor, bias: Tensor | None, shape: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(packed)
        ctx.shape = shape
        weight = packed.new_empty(shape, dtype=COMPUTED)
        offset = None if bias is None else bias.to(COMPUTED)
        return functional.linear(inputs.to(COMPUTED), weight, offset).to(inputs.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,), (packed,) = gradients, ctx.saved_tensors
        weight = packed.new_empty(ctx.shape, dtype=COMPUTED)
        return (gradient.to(COMPUTED) @ weight).to(gradient.dtype), None, None, None
