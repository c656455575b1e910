"""Which frames u-LLaVA's first release takes: of short clips fewer, and by rounding now and then one past the end."""

from __future__ import annotations

from random import Random

import numpy as np


def original_uniform_frames(length: int, count: int, rng: Random | None = None) -> list[int]:
    """Return what u-LLaVA takes: floating-point steps, and no repetition where the clip is short."""
    count = min(count, length)
    return [int(number) for number in np.arange(0, length, length / count).astype(int)]


def original_head_tail_frames(length: int, count: int, rng: Random) -> list[int]:
    """Return what u-LLaVA takes: half of ``min(count, length)``, rounded down, from each half."""
    each, middle = min(count, length) // 2, length // 2
    return sorted(rng.sample(range(middle), each)) + sorted(rng.sample(range(middle, length), each))
