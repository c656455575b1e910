"""EfficientNet-Lite as a vision tower: a stem, stages of inverted blocks, and a last widening of every state.

Hidden state k is the map after stage k (0: the stem's), read row by row; the last is the widened one, of which its
classifier takes the mean. Maps are kept channels last in memory, which is what convolutions on CPUs are fastest with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ullava.modeling.cpu.convolutions import whole_precision
from ullava.modeling.towers.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel
from ullava.modeling.towers.tower_contract import MapTower, trains

STEM_STRIDE = 2
MEAN, SPREAD = 127 / 255, 128 / 255
"""The published preprocessing is (x - 127) / 128 of whole gray values."""


class EfficientNetTower(MapTower):
    """EfficientNet-Lite with ImageNet's classes, in our own form (ullava convert efficientnet)."""

    config_class = EfficientNetLiteConfig
    network_class = EfficientNetLiteModel
    image_mean, image_std = (MEAN,) * 3, (SPREAD,) * 3
    any_size = True
    attends = False

    @property
    def num_layers(self) -> int:
        """The stages and the last widening."""
        return len(self.config.hidden_sizes) + 1

    def stride(self, layer: int) -> int:
        """The stem's, times those of the stages up to ``layer``."""
        stride = STEM_STRIDE
        for step in self.config.strides[: self.depth(layer)]:
            stride *= int(step)
        return stride

    def width(self, layer: int) -> int:
        """Channels of the map."""
        widths = (self.config.stem_size, *self.config.hidden_sizes, self.config.head_size)
        return int(widths[self.depth(layer)])

    def stem(self, network: Any) -> nn.Module:
        """The convolution that reads pixels."""
        found: nn.Module = network.stem
        return found

    def maps(self, network: Any, pixels: Tensor, layer: int = -1) -> list[Tensor]:
        """See MapTower; sides that are no multiples of the stride are rounded up at every step."""
        with whole_precision(pixels):
            return self._maps(network, pixels, layer)

    def _maps(self, network: Any, pixels: Tensor, layer: int) -> list[Tensor]:
        with torch.set_grad_enabled(trains(network.stem)):
            plane = network.embed(pixels.contiguous(memory_format=torch.channels_last))
        found = [plane]
        for stage in network.layers[: self.depth(layer)]:
            with torch.set_grad_enabled(torch.is_grad_enabled() and (plane.requires_grad or trains(stage))):
                plane = stage(plane)
            found.append(plane)
        return found

    def unread(self, layer: int) -> tuple[str, ...]:
        """The stages above the chosen one."""
        return tuple(f"layers.{number}." for number in range(self.depth(layer), self.num_layers))

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Every stage by its number from 1; the stem goes with the first, the widening is the last."""
        stages = {f"vision stage {n + 1}": (f"layers.{n}.",) for n in range(self.num_layers)}
        return stages | {"vision stage 1": ("stem.", *stages["vision stage 1"])}
