"""Weights that lie in mapped files: turned into float32 one by one, without both forms being in memory at a time."""

from __future__ import annotations

import ctypes
import mmap
import sys

import torch
from torch import Tensor


def in_float32(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights in float32; ``weights`` is empty afterwards. Names that share a tensor share the new one.

    A tensor of a mapped file takes memory once it was read. What was converted is given back at once, so that a model
    of float16 needs its float32 and no more.
    """
    files = _mapped_files()
    made: dict[tuple[int, torch.Size, tuple[int, ...]], Tensor] = {}
    converted: dict[str, Tensor] = {}
    for name in list(weights):
        value = weights.pop(name)
        key = (value.data_ptr(), value.shape, value.stride())
        if key not in made:
            made[key] = value.float() if value.is_floating_point() else value
            if made[key] is not value:
                _forget(value, files)
        converted[name] = made[key]
    return converted


def _forget(value: Tensor, files: list[tuple[int, int]]) -> None:
    """Give back the whole pages below a tensor, where they can be read from their file again."""
    begin, end = value.data_ptr(), value.data_ptr() + value.untyped_storage().nbytes()
    end = min(end, begin + value.numel() * value.element_size())
    if not any(first <= begin and end <= last for first, last in files):
        return  # memory of our own would be lost, not given back
    first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    length = end // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def _mapped_files() -> list[tuple[int, int]]:
    """Where this process has mapped files (first and last address); none where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return []
    places = []
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            span, _, _, _, inode, *name = line.split(maxsplit=5)
            if inode != "0" and name and name[0].startswith("/"):
                first, _, last = span.partition("-")
                places.append((int(first, 16), int(last, 16)))
    return places
