"""Permutations that are computed element by element and need no memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6
_WORD = (1 << 64) - 1


def feistel_permutation(index: int, size: int, *key: int) -> int:
    """Return where ``index`` goes in the permutation of 0 … ``size`` - 1 that ``key`` names; needs no memory.

    A Feistel network on the smallest even number of bits that holds ``size``, followed again and again until it lands
    below ``size`` (fewer than four times on average).
    """
    half, low, state = _round_keys(size, key)
    while True:
        left, right = index >> half, index & low
        for number in range(_ROUNDS):
            left, right = right, left ^ (_splitmix64(state + (number << 32) + right) & low)
        index = left << half | right
        if index < size:
            return index


def _round_keys(size: int, key: tuple[int, ...]) -> tuple[int, int, int]:
    """Bits of half an index, the mask of so many bits, and the key as one number."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    state = 0
    for part in key:
        state = _splitmix64(state ^ part)
    return half, (1 << half) - 1, state


def _splitmix64(value: Any) -> Any:
    """Spread an int, or each of a uint64 array, over 64 bits (the finishing steps of SplitMix64)."""
    value = (value + 0x9E3779B97F4A7C15) & _WORD
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _WORD
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _WORD
    return value ^ value >> 31


def feistel_permutation_all(indices: NDArray[np.int64], size: int, *key: int) -> NDArray[np.int64]:
    """Return ``feistel_permutation`` of many ``indices`` [n] at once."""
    half, low, state = _round_keys(size, key)
    result = indices.astype(np.uint64)
    open_places = np.arange(len(result))
    while len(open_places):
        left, right = result[open_places] >> half, result[open_places] & low
        for number in range(_ROUNDS):
            first = np.uint64((state + (number << 32)) & _WORD)
            left, right = right, left ^ (_splitmix64(first + right) & low)
        result[open_places] = left << half | right
        open_places = open_places[result[open_places] >= size]
    return result.astype(np.int64)
