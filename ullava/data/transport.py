"""How a batch crosses from a loader's worker: all of its tensors in one block of shared memory.

Left to itself, torch moves every tensor of a batch through shared memory of its own: a file, a connection between the
processes and a mapping for each of a dozen tensors, most of them a few bytes long. One block for all of them costs one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch

ALIGNMENT = 64
"""Bytes to which each tensor's place in the block is rounded up, so that vector instructions may read it."""

Layout = list[tuple[torch.dtype, tuple[int, ...], int]]
"""Of each tensor: what it holds, its shape, and the byte at which it starts."""


class Batch(dict[str, Any]):
    """What the collator returns: a dict that packs its tensors when it is pickled, and arrives as a plain dict."""

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __reduce__(self) -> tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]:
        tensors: list[torch.Tensor] = []
        places: dict[int, _Place] = {}
        frame = {key: _take_out(value, tensors, places) for key, value in self.items()}
        block, layout = pack(tensors)
        return _arrive, (frame, block, layout)


class _Place(int):
    """Stands where a tensor was: its number in the block."""


def _take_out(value: Any, tensors: list[torch.Tensor], places: dict[int, _Place]) -> Any:
    """Tensors, and those of lists, become places; one that stands in several keeps one place."""
    if isinstance(value, torch.Tensor):
        if id(value) not in places:
            places[id(value)] = _Place(len(tensors))
            tensors.append(value)
        return places[id(value)]
    if isinstance(value, list):
        return [_take_out(item, tensors, places) for item in value]
    return value


def _put_back(value: Any, tensors: list[torch.Tensor]) -> Any:
    if isinstance(value, _Place):
        return tensors[value]
    if isinstance(value, list):
        return [_put_back(item, tensors) for item in value]
    return value


def pack(tensors: list[torch.Tensor]) -> tuple[torch.Tensor, Layout]:
    """Copy ``tensors`` into one block of shared memory, uint8 [bytes], and say where each of them lies."""
    layout: Layout = []
    end = 0
    for tensor in tensors:
        layout.append((tensor.dtype, tuple(tensor.shape), end))
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    block = torch.empty(0, dtype=torch.uint8)
    block = block.new(block.untyped_storage()._new_shared(max(end, 1)))
    for tensor, (_, _, start) in zip(tensors, layout, strict=True):
        block[start : start + tensor.nbytes] = tensor.contiguous().view(-1).view(torch.uint8)
    return block, layout


def unpack(block: torch.Tensor, layout: Layout) -> list[torch.Tensor]:
    """Return the tensors of a block; they share its memory."""
    found = []
    for dtype, shape, start in layout:
        size = torch.Size(shape).numel() * dtype.itemsize
        found.append(block[start : start + size].view(dtype).view(shape))
    return found


def _arrive(frame: Mapping[str, Any], block: torch.Tensor, layout: Layout) -> dict[str, Any]:
    tensors = unpack(block, layout)
    return cast(dict[str, Any], {key: _put_back(value, tensors) for key, value in frame.items()})
