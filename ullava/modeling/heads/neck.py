"""From the pyramid of a vision tower to maps of one width: what a mask decoder reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ullava.modeling.cpu.convolutions import whole_precision

GROUPS = 8
"""Of the normalization behind every map."""


class TopDownNeck(nn.Module):
    """A feature pyramid (Lin et al., arXiv 1612.03144): every level adds what the coarser ones know.

    ``channels``: of the levels, finest first; the finest ``kept`` of them go out, ``width`` wide. A level is brought to
    the width by a 1 x 1 convolution, the level above it enlarged and added, the sum smoothed by a 3 x 3 convolution:
    one of all channels, for the finest level one of each channel alone, since it has most of the cells.
    """

    def __init__(self, channels: Sequence[int], width: int, kept: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channel, width, 1) for channel in channels)
        self.smooth = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, groups=width if level == 0 else 1) for level in range(kept)
        )
        self.norm = nn.ModuleList(nn.GroupNorm(GROUPS, width) for _ in range(kept))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [I, C_s, h_s, w_s], finest first -> the ``kept`` finest [I, width, h_s, w_s]."""
        with whole_precision(maps[0], self):
            return self._down(maps)

    def _down(self, maps: Sequence[Tensor]) -> list[Tensor]:
        made: list[Tensor] = []
        above: Tensor | None = None
        for level in reversed(range(len(maps))):
            plane = self.lateral[level](maps[level].to(memory_format=torch.channels_last))
            if above is not None:
                plane = plane + functional.interpolate(above, size=plane.shape[-2:], mode="nearest")
            above = plane
            if level < len(self.smooth):
                made.append(functional.gelu(self.norm[level](self.smooth[level](plane))))
        return made[::-1]
