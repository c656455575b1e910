"""What tokens of boxes share, MG-LLaVA's of objects and those of regions: where a box is read, what it says of itself.

RoIAlign (Mask R-CNN, arXiv 1703.06870) reads a map at points spread evenly over a box, by bilinear interpolation, which
works on rows and columns apart. So a mean over points is a weight for each row and each column of the map as it is. The
border follows the compiled kernels (RoIAlign of torchvision): a box below one cell is widened to one cell, and points
that then lie beyond the last row or column count as zero.
"""

from __future__ import annotations

import torch
from torch import nn


def interval_weights(low: torch.Tensor, high: torch.Tensor, side: int, bins: int) -> torch.Tensor:
    """Weight of each of ``side`` cells in the mean over points spread over [low, high] (in cells): float32 [k, side].

    Every bin holds ceil(length / bins) points; an interval is at least one cell long, and points beyond ``side`` (or
    more than one cell before 0) count as zero.
    """
    first, share, counted, _, count = _points(low, high, side, bins)
    weights = torch.zeros(len(low), side, device=low.device)
    weights.scatter_add_(1, first, (1.0 - share) * counted)
    weights.scatter_add_(1, (first + 1).clamp(max=side - 1), share * counted)
    return weights / count


def bin_weights(low: torch.Tensor, high: torch.Tensor, side: int, bins: int) -> torch.Tensor:
    """The same for each bin by itself: float32 [k, bins, side], whose mean over the bins is ``interval_weights``."""
    first, share, counted, bin_of, count = _points(low, high, side, bins)
    weights = torch.zeros(len(low), bins * side, device=low.device)
    weights.scatter_add_(1, bin_of * side + first, (1.0 - share) * counted)
    weights.scatter_add_(1, bin_of * side + (first + 1).clamp(max=side - 1), share * counted)
    return (weights * (bins / count)).unflatten(1, (bins, side))


def _points(low: torch.Tensor, high: torch.Tensor, side: int, bins: int) -> tuple[torch.Tensor, ...]:
    """The points of intervals [low, high], padded to the most that one has: [k, p] each, and their ``count`` [k, 1].

    First the cell on the left of each and the share that the cell on its right has, then whether it counts, then the
    bin that it lies in.
    """
    low, high = low.float(), high.float()
    length = (high - low).clamp(min=1.0)
    per_bin = (length / bins).ceil().clamp(min=1.0)
    most = int(per_bin.max()) * bins if len(low) else 0
    number = torch.arange(most, device=low.device)[None]
    count = per_bin[:, None] * bins
    place = low[:, None] + (number + 0.5) * (length[:, None] / count)
    counted = (number < count) & (place >= -1.0) & (place <= side)
    place = place.clamp(0.0, side - 1.0)
    first = place.floor().long()
    bin_of = (number / per_bin[:, None]).floor().long().clamp(max=bins - 1)
    return first, place - first, counted, bin_of, count


def middle_and_size(boxes: torch.Tensor) -> torch.Tensor:
    """What a box says of itself: corners [..., 4] -> its middle and its size [..., 4], in the frame of the corners."""
    corners, others = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(corners + others) / 2, others - corners], dim=-1)


def two_layers(width_in: int, width_out: int) -> nn.Sequential:
    """A projector of two layers with an exact GELU between."""
    return nn.Sequential(nn.Linear(width_in, width_out), nn.GELU(), nn.Linear(width_out, width_out))
