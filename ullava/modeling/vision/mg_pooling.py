"""MG-LLaVA's object tokens: the mean of a feature pyramid over each box (RoIAlign, then the mean of its bins).

As published, every map is brought to the finest one's size, all are joined, and RoIAlign reads the result, 405 MiB for
an image of 768 x 768. It reads at points spread evenly over the box, by bilinear interpolation, and the mean over
its bins is the mean over its points. Both interpolations work on rows and columns apart, so the whole is
``w_y^T map w_x`` for each map as it is, with a weight for each row and each column: the same numbers, and no bins and
no up-sampled map ever exist (ullava.modeling.vision.box_pooling has the weights).

Shapes: I images, k boxes of one image, C channels, h x w cells of a map; boxes are corners in pixels of the view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from ullava.errors import UserError
from ullava.modeling.vision.box_pooling import interval_weights, middle_and_size, two_layers

PoolingKind = Literal["pyramid", "last_only", "multi_level"]
POOLINGS: tuple[PoolingKind, ...] = ("pyramid", "last_only", "multi_level")

BINS = 56
BINS_LAST = 7
"""Bins along each side of a box: of the whole pyramid, and of its last map alone."""
LEVEL_WIDTH = 1024
"""Width in which ``multi_level`` adds the levels up."""


def upsampling(side: int, wanted: int, device: torch.device) -> torch.Tensor:
    """Bilinear interpolation (corners not aligned) of ``side`` cells to ``wanted`` as a matrix [wanted, side]."""
    cells = torch.eye(side, device=device)[None]
    return functional.interpolate(cells, wanted, mode="linear", align_corners=False)[0].T


def pool_map(
    plane: torch.Tensor, boxes: torch.Tensor, view_side: int, *, bins: int, upsampled: int | None = None
) -> torch.Tensor:
    """Mean of ``plane`` [C, h, w] over each of ``boxes`` [k, 4]: float32 [k, C], zero rows only where k is 0.

    ``view_side``: side in pixels of the square view that the boxes are drawn on. ``upsampled``: as if the map had been
    brought to this side first, by bilinear interpolation.
    """
    height, width = plane.shape[-2:]
    corners = boxes.to(plane.device, torch.float32)
    weights = []
    for axis, cells in ((1, height), (0, width)):
        fine = upsampled or cells
        low, high = (corners[:, [axis, axis + 2]] * (fine / view_side)).unbind(1)
        weight = interval_weights(low, high, fine, bins)
        weights.append(weight if fine == cells else weight @ upsampling(cells, fine, plane.device))
    rows, columns = weights
    along = torch.einsum("cyx,kx->kcy", plane.float(), columns)
    return torch.einsum("kcy,ky->kc", along, rows)


class ObjectTokens(nn.Module):
    """A token for each box of an image from the maps of a pyramid, finest first.

    ``pyramid`` (published) pools every map and joins the channels; ``last_only`` pools the coarsest map, in its own
    cells; ``multi_level`` adds the levels up, each behind a layer of its own. A two-layer projector follows.
    ``embed_boxes`` adds what two layers make of the box itself (center and size over the view's side); not published.
    """

    def __init__(self, kind: PoolingKind, channels: Sequence[int], width_out: int, *, embed_boxes: bool) -> None:
        super().__init__()
        if kind not in POOLINGS:
            raise UserError(f"unknown pooling '{kind}'; known: {', '.join(POOLINGS)}")
        self.kind = kind
        widths = {"last_only": channels[-1], "multi_level": LEVEL_WIDTH}
        self.width_in = widths.get(kind, sum(channels))
        if kind == "multi_level":
            self.levels = nn.ModuleList(nn.Linear(width, LEVEL_WIDTH) for width in channels)
        self.projector = two_layers(self.width_in, width_out)
        self.box_embedding = two_layers(4, width_out) if embed_boxes else None

    def pool(self, maps: Sequence[torch.Tensor], boxes: torch.Tensor, view_side: int) -> torch.Tensor:
        """Means [k, ``width_in``] of one image's maps [C_s, h_s, w_s] over its boxes [k, 4] in view pixels."""
        if self.kind == "last_only":
            return pool_map(maps[-1], boxes, view_side, bins=BINS_LAST)
        finest = maps[0].shape[-1]
        means = [pool_map(plane, boxes, view_side, bins=BINS, upsampled=finest) for plane in maps]
        if self.kind != "multi_level":
            return torch.cat(means, dim=1)
        dtype = next(self.parameters()).dtype
        return torch.stack([level(mean.to(dtype)) for level, mean in zip(self.levels, means, strict=True)]).sum(dim=0)

    def forward(
        self, maps: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor], view_side: int
    ) -> list[torch.Tensor]:
        """Tokens [k_i, D] of every image from maps [I, C_s, h_s, w_s] and boxes [k_i, 4]; k may be 0."""
        pooled = [self.pool([level[row] for level in maps], found, view_side) for row, found in enumerate(boxes)]
        tokens = self.projector(torch.cat(pooled).to(next(self.projector.parameters()).dtype))
        if self.box_embedding is not None:
            corners = torch.cat([found.reshape(-1, 4) for found in boxes]).to(tokens.device, torch.float32) / view_side
            tokens = tokens + self.box_embedding(middle_and_size(corners).to(tokens.dtype))
        return list(tokens.split([len(rows) for rows in pooled]))
