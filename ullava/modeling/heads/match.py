"""Where in an image something like the thing that is meant lies: one product of each cell with the state.

A mask decoder draws outlines well and learns slowly which of two neighbors a word means: what it multiplies with the
words is narrow, and lies behind two layers of attention. Here a state is compared with every cell of one map at the
full width, as language-driven segmentation does it with the embedding of a word (LSeg, Li et al., arXiv 2201.03546).
The products are added to the decoder's logits; the largest of them say whether the thing is there at all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ullava.modeling.cpu.convolutions import whole_precision

TOP_SHARE = 64
"""One cell in so many is looked at to tell whether the thing is there: those that are most like it."""


class CellMatch(nn.Module):
    """``width``: of the map's cells and of the product; ``width_in``: of the states."""

    def __init__(self, width: int, width_in: int) -> None:
        super().__init__()
        self.sought = nn.Linear(width_in, width)
        self.cells = nn.Conv2d(width, width, 1)

    @torch.no_grad()
    def init_new_weights(self) -> None:
        """Nothing is like anything until something is learned, so a decoder is not disturbed."""
        nn.init.zeros_(self.cells.weight)
        if self.cells.bias is not None:
            nn.init.zeros_(self.cells.bias)

    def embed(self, plane: Tensor) -> Tensor:
        """A map [I, C, h, w] -> what is compared of it, of the same shape."""
        with whole_precision(plane, self.cells):
            made: Tensor = self.cells(plane)
        return made

    def forward(self, states: Tensor, cells: Tensor) -> Tensor:
        """States [K, D] and the maps of their images [K, C, h, w], from ``embed`` -> logits [K, h, w]."""
        sought = self.sought(states)
        height, width = cells.shape[-2:]
        products = torch.bmm(sought[:, None].to(cells.dtype), cells.flatten(2)) / cells.shape[1] ** 0.5
        return products.view(-1, height, width)

    @staticmethod
    def presence(logits: Tensor) -> Tensor:
        """Logits [K, h, w] -> [K]: the mean of the largest, what they add to the thing being there."""
        flat = logits.flatten(1)
        return flat.topk(max(1, flat.shape[1] // TOP_SHARE), dim=1).values.mean(dim=1)

    @staticmethod
    def enlarged(logits: Tensor, plane_hw: tuple[int, int]) -> Tensor:
        """Logits [K, h, w] on a plane of ``plane_hw``, bilinear."""
        return functional.interpolate(logits[:, None], size=plane_hw, mode="bilinear", align_corners=False)[:, 0]
