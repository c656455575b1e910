"""MG-LLaVA's high-resolution encoder: every map of a ConvNeXt, without its final norm (spec/siblings.md 1.1)."""

from __future__ import annotations

import torch
from torch import nn
from transformers import ConvNextConfig, ConvNextModel


class ConvNextPyramid(nn.Module):
    """All maps of a ConvNeXt, finest first: stage s of ``config`` has ``hidden_sizes[s]`` channels, stride 4 * 2^s."""

    def __init__(self, config: ConvNextConfig) -> None:
        super().__init__()
        self.model = ConvNextModel(config)
        self.model.layernorm = nn.Identity()  # of the mean over the picture, which nobody reads here

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of every map."""
        return tuple(self.model.config.hidden_sizes)

    @property
    def stride(self) -> int:
        """Pixels per cell of the coarsest map."""
        return int(self.model.config.patch_size) * 2 ** (len(self.channels) - 1)

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Normalised pixels [I, 3, R, R] -> maps [I, C_s, R / stride_s, R / stride_s]; no gradient if it is frozen."""
        trainable = any(parameter.requires_grad for parameter in self.parameters())
        with torch.set_grad_enabled(trainable and torch.is_grad_enabled()):
            plane = self.model.embeddings(pixels)
            maps = []
            for stage in self.model.encoder.stages:
                plane = stage(plane)
                maps.append(plane)
        return maps
