"""MG-LLaVA's fusion of low-resolution tokens with a high-resolution map on the same grid (arXiv 2406.17770).

Shapes: I images, P patches of the grid h x w row by row, C_low and C_high channels. The paper writes a gate for every
token; the released module, reproduced here, has one number for every image (arXiv 2406.17770).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from ullava.errors import UserError

FusionKind = Literal["gate", "gate_concat", "concat", "raw_concat"]
FUSIONS: tuple[FusionKind, ...] = ("gate", "gate_concat", "concat", "raw_concat")


class ConvGateFusion(nn.Module):
    """Fused tokens of images from patch states [I, P, C_low] and a map [I, C_high, h, w] with h * w = P.

    With L' the low states and H' the map, each changed by two small convolutions, and g = tanh of a gate that reads the
    mean of both, the kinds give: ``gate`` L' + g H' (the published one), ``gate_concat`` [L', g H'], ``concat``
    [L', H'], ``raw_concat`` both as they came, without a weight.

    At the start L' is the low state itself and H' zero, so ``gate`` begins as the low states bit for bit. The gate's
    own layers must not start at zero too: then no gradient would ever reach the second branch.
    """

    def __init__(self, kind: FusionKind, low: int, high: int) -> None:
        super().__init__()
        if kind not in FUSIONS:
            raise UserError(f"unknown fusion '{kind}'; known: {', '.join(FUSIONS)}")
        self.kind = kind
        self.width_out = {"gate": low, "gate_concat": 2 * low, "concat": 2 * low, "raw_concat": low + high}[kind]
        if kind == "raw_concat":
            return
        self.slow_conv = nn.Conv2d(high, high, 1)
        self.slow_proj = nn.Conv2d(high, low, 1)
        self.fast_conv = nn.Conv2d(low, low, 7, padding=3, groups=low)
        self.fast_proj = nn.Conv2d(low, low, 1)
        if kind != "concat":
            self.gate = nn.Sequential(nn.Linear(2 * low, low // 2), nn.GELU(), nn.Linear(low // 2, 1))
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Starting values as published: the last layer of each branch zero, the gate as PyTorch starts a Linear."""
        if self.kind == "raw_concat":
            return
        for inner, last in ((self.slow_conv, self.slow_proj), (self.fast_conv, self.fast_proj)):
            nn.init.xavier_uniform_(inner.weight)
            nn.init.zeros_(last.weight)
            for layer in (inner, last):
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if self.kind != "concat":
            for part in self.gate:
                if isinstance(part, nn.Linear):
                    part.reset_parameters()

    def forward(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens [I, P, ``width_out``] and tanh of the gate [I, 1] (None where the kind has none).

        Raises UserError when the two grids differ.
        """
        height, width = high.shape[-2:]
        if low.shape[1] != height * width:
            raise UserError(
                f"{low.shape[1]} low-resolution patches cannot be fused with a map of {height} x {width}: the low side "
                "over the patch must be the high side over the pyramid's stride"
            )
        if self.kind == "raw_concat":
            return torch.cat([low, _tokens(high).to(low.dtype)], dim=-1), None
        plane = low.transpose(1, 2).unflatten(2, (height, width))
        fine = _tokens(self.slow_proj(functional.gelu(self.slow_conv(high.to(low.dtype)))))
        coarse = low + _tokens(self.fast_proj(functional.gelu(self.fast_conv(plane))))
        if self.kind == "concat":
            return torch.cat([coarse, fine], dim=-1), None
        gate = torch.tanh(self.gate(torch.cat([coarse, fine], dim=-1).mean(dim=1)))
        weighted = gate[:, None] * fine
        return (coarse + weighted if self.kind == "gate" else torch.cat([coarse, weighted], dim=-1)), gate


def _tokens(plane: torch.Tensor) -> torch.Tensor:
    """[I, C, h, w] -> [I, h * w, C], row by row."""
    return plane.flatten(2).transpose(1, 2)
