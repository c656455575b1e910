"""MG-LLaVA's high-resolution encoder: every map of a ConvNeXt, without its final norm (arXiv 2406.17770)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import ConvNextConfig

from ullava.modeling.loading.strict_loading import load_part, read_part
from ullava.modeling.towers.convnext import BESIDE, UNREAD, ConvNextTower


class ConvNextPyramid(nn.Module):
    """All maps of a ConvNeXt, finest first: stage s of ``config`` has ``hidden_sizes[s]`` channels, stride 4 * 2^s."""

    def __init__(self, config: ConvNextConfig) -> None:
        super().__init__()
        self.kind = ConvNextTower(config)
        self.model = self.kind.build()
        self.model.layernorm = nn.Identity()  # of the mean over the image, which nobody reads here

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of every map."""
        return tuple(self.kind.width(stage + 1) for stage in range(self.kind.num_layers))

    @property
    def stride(self) -> int:
        """Pixels per cell of the coarsest map."""
        return self.kind.stride(-1)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 or normalized float [I, 3, R, R] -> normalized as the ConvNeXt reads it."""
        return self.kind.normalize(self.model, pixels)

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Normalized pixels [I, 3, R, R] -> maps [I, C_s, R / stride_s, R / stride_s]; no gradient if it is frozen."""
        return self.kind.maps(self.model, pixels)[1:]

    def load(self, folder: Path) -> None:
        """Read the weights of a ConvNeXt in ``folder``; WeightsError for all that does not fit."""
        load_part(self.model, read_part(self.kind.network_class, folder, beside=BESIDE, unread=UNREAD), folder)
