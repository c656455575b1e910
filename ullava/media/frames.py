"""Which frames of a video the model sees: always as many as asked for, in order, for clips of every length.

``uniform``    frame ``floor(i * length / count)`` for i = 0 … count - 1
``head_tail``  half of the frames from each half of the clip, drawn without repetition where there are enough

A clip with fewer frames than asked for repeats some. The two ``original_`` ways are u-LLaVA's, defects included
(u-LLaVA's released video processors): short clips give fewer frames, and rounding may give one too many, past the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

import numpy as np

from ullava.errors import DataError, did_you_mean
from ullava.structures import FrameSampling


def uniform_frames(length: int, count: int, rng: Random | None = None) -> list[int]:
    """Return ``count`` frame numbers at equal steps over ``length`` frames, in whole-number arithmetic."""
    return [place * length // count for place in range(count)]


def head_tail_frames(length: int, count: int, rng: Random) -> list[int]:
    """Return ``count // 2`` frame numbers of the first half and the rest of the second half, each half in order."""
    middle, head = length // 2, count // 2 if length > 1 else 0
    return _of_half(0, middle, head, rng) + _of_half(middle, length, count - head, rng)


def _of_half(start: int, stop: int, count: int, rng: Random) -> list[int]:
    if stop - start >= count:
        return sorted(rng.sample(range(start, stop), count))
    return [start + place for place in uniform_frames(stop - start, count)]


def original_uniform_frames(length: int, count: int, rng: Random | None = None) -> list[int]:
    """Return what u-LLaVA takes: floating-point steps, and no repetition where the clip is short."""
    count = min(count, length)
    return [int(number) for number in np.arange(0, length, length / count).astype(int)]


def original_head_tail_frames(length: int, count: int, rng: Random) -> list[int]:
    """Return what u-LLaVA takes: half of ``min(count, length)``, rounded down, from each half."""
    each, middle = min(count, length) // 2, length // 2
    return sorted(rng.sample(range(middle), each)) + sorted(rng.sample(range(middle, length), each))


SAMPLERS: Mapping[FrameSampling, Callable[[int, int, Random], list[int]]] = {
    "uniform": uniform_frames,
    "head_tail": head_tail_frames,
    "original_uniform": original_uniform_frames,
    "original_head_tail": original_head_tail_frames,
}


def choose_frames(length: int, count: int, sampling: FrameSampling = "uniform", seed: int = 0) -> list[int]:
    """Return which of ``length`` frames are seen; the same seed draws the same. Raises DataError if none can be."""
    if sampling not in SAMPLERS:
        raise DataError(f"unknown frame sampling '{sampling}'{did_you_mean(sampling, SAMPLERS)}")
    if length < 1 or count < 1:
        raise DataError(f"{count} frames cannot be chosen from {length}")
    return SAMPLERS[sampling](length, count, Random(seed))
