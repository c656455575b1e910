"""SliME's projector: for the global view a gated mixture of an MLP and of a resampler followed by the same MLP.

arXiv 2406.08487, global view. The gate is computed in float32; noise is drawn in training only, from a generator that
the caller passes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from ullava.modeling.vision.slime_resampler import Resampler

GateMode = Literal["learned", "mlp", "resampler"]
"""How the experts are mixed; the released numbers of ``mm_learnable_gated`` are -1, 0 and 1 in this order."""
NoiseScale = Literal["noise", "gate"]
"""Which matrix scales the gate's noise: its own, or the gate's (parity switch: what the released code does)."""

NOISE_FLOOR = 0.01
GATE_EPS = 1e-6


class GatedMixture(nn.Module):
    """Project states of width W to D. Names of parameters are the released ones (``w_gate``, ``projection``, ``attn``).

    ``projection`` is the MLP that everything shares, ``attn`` resampler A with as many queries as the global view has
    patches.
    """

    def __init__(self, side: int, width: int, heads: int, width_out: int) -> None:
        super().__init__()
        self.w_gate = nn.Parameter(torch.zeros(width, 2))
        self.w_noise = nn.Parameter(torch.zeros(width, 2))
        self.projection = nn.Sequential(nn.Linear(width, width_out), nn.GELU(), nn.Linear(width_out, width_out))
        self.attn = Resampler(side, width, heads)

    def gates(
        self, states: torch.Tensor, noise: torch.Tensor | None = None, scale: NoiseScale = "noise"
    ) -> torch.Tensor:
        """Shares of the two experts, float32 [..., 2]; ``noise`` are standard normal numbers of that shape or None."""
        with torch.autocast(states.device.type, enabled=False):
            inputs = states.float()
            logits = inputs @ self.w_gate.float()
            if noise is not None:
                matrix = self.w_gate if scale == "gate" else self.w_noise
                logits = logits + noise * (functional.softplus(inputs @ matrix.float()) + NOISE_FLOOR)
            shares = logits.softmax(dim=-1)
            return shares / (shares.sum(dim=-1, keepdim=True) + GATE_EPS)

    def forward(
        self,
        states: torch.Tensor,
        mode: GateMode = "learned",
        *,
        noise: torch.Tensor | None = None,
        scale: NoiseScale = "noise",
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """States of global views [I, P, W] -> tokens [I, P, D] and gates [I, P, 2] (None for one expert)."""
        if mode == "mlp":
            return self.projection(states), None
        resampled = self.projection(self.attn(states))
        if mode == "resampler":
            return resampled, None
        shares = self.gates(states, noise, scale)
        plain = self.projection(states)
        mixed = shares[..., :1].to(plain.dtype) * plain + shares[..., 1:].to(plain.dtype) * resampled
        return mixed, shares
