"""Tokens of the regions that a question points at: means of the vision tower's map, and where the region lies.

As MG-LLaVA's tokens of detected objects (ullava.modeling.vision.mg_pooling) a region is read by RoIAlign, here at
``FIELDS`` x ``FIELDS`` bins for each of its tokens, and with cells whose centers, not corners, are whole numbers
(``aligned`` of torchvision). A mask weighs the bins by how much of each it covers.

Shapes: N regions of a batch, n x n tokens of each, C channels, h x w cells of a map, which may differ by image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ullava.examples import RegionInputs
from ullava.modeling.vision.box_pooling import bin_weights, middle_and_size, two_layers

FIELDS = 28
"""Bins along each side of what one token is the mean of, in which a mask is told too."""


class RegionTokens(nn.Module):
    """n x n tokens for each region, row by row: ``projector`` of the mean of a field, plus ``position`` of its place.

    ``channels`` C of the maps; ``grid`` n. The place is the field's middle and size, in fractions of the view.
    """

    def __init__(self, channels: int, width_out: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.projector = two_layers(channels, width_out)
        self.position = two_layers(4, width_out)

    @property
    def count(self) -> int:
        """Tokens of a region."""
        return self.grid**2

    def forward(self, maps: Sequence[torch.Tensor], regions: RegionInputs) -> torch.Tensor:
        """Tokens [N n^2, D] from the map [C, h, w] of every distinct image."""
        means = maps[0].new_zeros((len(regions.boxes), self.count, maps[0].shape[0]), dtype=torch.float32)
        for image in regions.image.unique().tolist():
            chosen = regions.image == image
            shares = None if regions.shares is None else regions.shares[chosen]
            with torch.autocast(means.device.type, enabled=False):  # small shares of many cells
                means[chosen] = pool_regions(maps[image], regions.boxes[chosen], shares, self.grid)
        dtype = next(self.parameters()).dtype
        places = middle_and_size(fields_of(regions.boxes, self.grid))
        return (self.projector(means.to(dtype)) + self.position(places.to(dtype))).flatten(0, 1)


def fields_of(boxes: torch.Tensor, grid: int) -> torch.Tensor:
    """Cut boxes [N, 4] into ``grid`` x ``grid`` equal ones each, row by row: [N, grid^2, 4]."""
    edges = torch.arange(grid + 1, device=boxes.device, dtype=boxes.dtype) / grid
    x, y = (boxes[:, [axis]] + (boxes[:, [axis + 2]] - boxes[:, [axis]]) * edges for axis in (0, 1))
    rows = torch.stack([y[:, :-1], y[:, 1:]], dim=-1)[:, :, None].expand(-1, -1, grid, -1)
    columns = torch.stack([x[:, :-1], x[:, 1:]], dim=-1)[:, None].expand(-1, grid, -1, -1)
    corners = torch.stack([columns[..., 0], rows[..., 0], columns[..., 1], rows[..., 1]], dim=-1)
    return corners.flatten(1, 2)


def pool_regions(plane: torch.Tensor, boxes: torch.Tensor, shares: torch.Tensor | None, grid: int) -> torch.Tensor:
    """Means of ``plane`` [C, h, w] over the fields of regions: float32 [k, grid^2, C], row by row.

    ``boxes`` [k, 4] in fractions of the view, ``shares`` [k, n, n] with n = ``grid * FIELDS``. A field that a mask
    leaves empty is told the mean of the whole region.
    """
    height, width = plane.shape[-2:]
    bins = grid * FIELDS
    corners = boxes.to(plane.device, torch.float32)
    along = []
    for axis, cells in ((1, height), (0, width)):
        low, high = (corners[:, [axis, axis + 2]] * cells - 0.5).unbind(1)  # cells count from their centers
        along.append(bin_weights(low, high, cells, bins).unflatten(1, (grid, FIELDS)))
    rows, columns = along
    if shares is None:
        weights = torch.einsum("kafh,kbgw->kabhw", rows, columns)
    else:
        covered = shares.to(plane.device, torch.float32).unflatten(2, (grid, FIELDS)).unflatten(1, (grid, FIELDS))
        weights = torch.einsum("kafbg,kafh,kbgw->kabhw", covered, rows, columns)
    weights = weights.flatten(1, 2)
    total = weights.sum(dim=(2, 3), keepdim=True)
    weights = torch.where(total > 0, weights, weights.sum(dim=1, keepdim=True))
    weights = weights / weights.sum(dim=(2, 3), keepdim=True)
    return torch.einsum("kahw,chw->kac", weights, plane.float())
