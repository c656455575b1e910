"""How a batch crosses from a loader's worker: all of its tensors in one block of shared memory, used again and again.

Left to itself, torch moves every tensor of a batch through shared memory of its own: a file, a connection between the
processes and a mapping for each of a dozen tensors, most of them a few bytes long. One block for all of them costs one.
A worker keeps its blocks: the first byte of each says whether the other side still holds a tensor of it. A block that
is free again carries the next batch, under the number by which the other side knows it, so that neither file nor
mapping nor fresh pages are needed for it. Images, the most of a batch, are put side by side there and nowhere before.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import active_children
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from ullava.errors import UserError
from ullava.examples import mapped

ALIGNMENT = 64
"""Bytes to which each tensor's place in the block is rounded up, so that vector instructions may read it."""

SPARE = 1.25
"""How much larger than its first batch a block is made, for those that follow."""

HELD, FREE = 1, 0

Layout = list[tuple[torch.dtype, tuple[int, ...], int]]
"""Of each tensor: what it holds, its shape, and the byte at which it starts."""

Key = tuple[int, int]
"""The process that made a block, and the block's number there."""


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """Arrays uint8 [..., h, w], each to be drawn at the top left of [N, ..., max h, max w], with zeros elsewhere."""

    views: Sequence[NDArray[np.uint8]]
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.uint8

    @property
    def nbytes(self) -> int:
        """Bytes of the whole plane."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def draw(self, plane: torch.Tensor) -> torch.Tensor:
        """Fill all of ``plane``, uint8 of ``shape``, and return it."""
        for row, view in zip(plane, self.views, strict=True):
            height, width = view.shape[-2:]
            row[..., :height, :width] = torch.from_numpy(view)
            row[..., height:, :] = 0
            row[..., :height, width:] = 0
        return plane


def side_by_side(views: Sequence[NDArray[np.uint8]]) -> torch.Tensor | Plane:
    """Put ``views``, one or more uint8 [..., h, w], on a common plane; within a loader's worker, once they are sent."""
    height, width = (max(view.shape[axis] for view in views) for axis in (-2, -1))
    plane = Plane(views, (len(views), *views[0].shape[:-2], height, width))
    if get_worker_info() is not None:
        return plane
    return plane.draw(torch.empty(plane.shape, dtype=plane.dtype))


class Parcel(dict[str, Any]):
    """What a loader's collator returns: a dict that packs all tensors in it when it is pickled.

    It arrives as a plain dict. Values may be records of ullava.examples; a tensor that stands in several places keeps
    one place in the block.
    """

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __reduce__(self) -> tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]:
        tensors: list[torch.Tensor | Plane] = []

        def take_out(tensor: torch.Tensor | Plane) -> _Place:
            tensors.append(tensor)
            return _Place(len(tensors) - 1)

        frame = mapped(dict(self), take_out, (torch.Tensor, Plane))
        layout, size = lay_out(tensors)
        try:
            block, known, dropped = _OWN.take(size)
        except RuntimeError as error:  # raised here it would be printed, the batch lost and waited for without end
            return _no_room, (str(error).splitlines()[0],)
        fill(block.memory, tensors, layout)
        return _arrive, (frame, layout, block.key, None if known else block.memory, dropped)


def _no_room(reason: str) -> dict[str, Any]:
    raise UserError(
        f"a loader's worker found no room for a batch: {reason}; give /dev/shm more (docker: --shm-size) or read "
        "without workers (dataloader_num_workers: 0)"
    )


class _Place(int):
    """Stands where a tensor was: its number in the block."""


# ---------------------------------------------------------------- what lies where
def lay_out(tensors: Sequence[torch.Tensor | Plane]) -> tuple[Layout, int]:
    """Say where each of ``tensors`` lies in a block whose first bytes are its mark, and how many bytes that takes."""
    layout: Layout = []
    end = ALIGNMENT
    for tensor in tensors:
        layout.append((tensor.dtype, tuple(tensor.shape), end))
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    return layout, end


def fill(block: torch.Tensor, tensors: Sequence[torch.Tensor | Plane], layout: Layout) -> None:
    """Copy ``tensors`` to their places in ``block``, uint8 [bytes], and draw planes there."""
    for tensor, place in zip(tensors, unpack(block, layout), strict=True):
        if isinstance(tensor, Plane):
            tensor.draw(place)
        else:
            place.copy_(tensor)


def unpack(block: torch.Tensor, layout: Layout) -> list[torch.Tensor]:
    """Return the tensors of a block; they share its memory."""
    found = []
    for dtype, shape, start in layout:
        size = torch.Size(shape).numel() * dtype.itemsize
        found.append(block[start : start + size].view(dtype).view(shape))
    return found


# ---------------------------------------------------------------- the side that sends
@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Shared memory, uint8 [bytes]; its first byte is ``HELD`` from when it is sent until the receiver lets go."""

    key: Key
    memory: torch.Tensor

    @property
    def free(self) -> bool:
        """Whether it may carry another batch."""
        return int(self.memory[0]) == FREE


@dataclass(slots=True)
class Pool:
    """The blocks of this process."""

    process: int = field(default_factory=os.getpid)
    blocks: list[Block] = field(default_factory=list)
    made: int = 0

    def take(self, size: int) -> tuple[Block, bool, list[Key]]:
        """Return a block of ``size`` bytes or more, marked as held, and whether the receiver knows it.

        Free blocks that are too small are given up; their keys come with the new one, for the receiver to forget.
        """
        if self.process != os.getpid():  # a forked copy: those blocks are another process's
            self.process, self.blocks, self.made = os.getpid(), [], 0
        free = [block for block in self.blocks if block.free]
        fitting = [block for block in free if len(block.memory) >= size]
        if fitting:
            chosen = min(fitting, key=lambda block: len(block.memory))
            chosen.memory[0] = HELD
            return chosen, True, []
        self.blocks = [block for block in self.blocks if block not in free]
        empty = torch.empty(0, dtype=torch.uint8)
        memory = empty.new(empty.untyped_storage()._new_shared(int(size * SPARE)))
        memory[0] = HELD
        self.made += 1
        made = Block((self.process, self.made), memory)
        self.blocks.append(made)
        return made, False, [block.key for block in free]


_OWN = Pool()

# ---------------------------------------------------------------- the side that receives
_KNOWN: dict[Key, torch.Tensor] = {}


def _arrive(
    frame: Mapping[str, Any], layout: Layout, key: Key, memory: torch.Tensor | None, dropped: list[Key]
) -> dict[str, Any]:
    if memory is not None:
        _forget_ended()
        _KNOWN[key] = memory
    for gone in dropped:
        _KNOWN.pop(gone, None)
    tensors = unpack(borrow(_KNOWN[key]), layout)
    return cast(dict[str, Any], mapped(dict(frame), lambda place: tensors[place], _Place))


def borrow(memory: torch.Tensor) -> torch.Tensor:
    """Return a tensor over a block's ``memory`` whose end, with that of all its views, marks the block as free."""
    lent = memory.numpy()
    weakref.finalize(lent, _let_go, memory, os.getpid()).atexit = False
    return torch.from_numpy(lent)


def _let_go(memory: torch.Tensor, borrower: int) -> None:
    if os.getpid() == borrower:  # and not a forked copy of it
        memory[0] = FREE


def _forget_ended() -> None:
    """Drop the blocks of workers that are gone; what is still held of them stays until it is let go."""
    alive = {child.pid for child in active_children()} | {os.getpid()}
    for key in [key for key in _KNOWN if key[0] not in alive]:
        del _KNOWN[key]
