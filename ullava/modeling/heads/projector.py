"""Between the language model and a head."""

from __future__ import annotations

from torch import nn


def two_layer_projector(width_in: int, width_out: int) -> nn.Sequential:
    """Linear, ReLU, Linear: the projector between the language model and a head."""
    return nn.Sequential(nn.Linear(width_in, width_in), nn.ReLU(), nn.Linear(width_in, width_out))
