"""How many visual tokens a square view gives: the one place that knows it, with and without a network at hand."""

from __future__ import annotations


def patch_grid_side(side: int, patch: int, merge: int = 1) -> int:
    """Tokens along one side of a view of ``side`` pixels: patches of ``patch``, ``merge`` x ``merge`` joined."""
    return side // patch // merge
