"""How many visual tokens a square view gives: the one place that knows it, with and without a network at hand."""

from __future__ import annotations


def patch_grid_side(side: int, patch: int, spatial_merge_size: int = 1) -> int:
    """Tokens along one side of a view of ``side`` pixels: patches of ``patch``, ``spatial_merge_size`` x
    ``spatial_merge_size`` joined.
    """
    return side // patch // spatial_merge_size
