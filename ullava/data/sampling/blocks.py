"""An order of training that reads neighbors together: blocks in random order, several of them mixed at a time.

For shards and disks that are slow when every row is asked for by itself. It is told by seed and position alone, as the
order without blocks is (ullava.data.sampling.mixture), so it is resumed and shared out in the same way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ullava.data.sampling.permutation import feistel_permutation, feistel_permutation_all

OPEN_BLOCKS = 8
"""So many blocks of an epoch are mixed with each other; one is spread over as many times its length."""
_BLOCKS, _ROWS, _LAST, _REST = range(4)


def block_permutation(index: int, size: int, block: int, mixed: int, *key: int) -> int:
    """Return where ``index`` goes in a permutation of 0 … ``size`` - 1 that keeps blocks of ``block`` together.

    The first ``mixed * block`` places hold so many whole blocks, drawn from all and mixed, and so on. What is left over
    at the end, less than a block, comes last.
    """
    blocks, window = size // block, mixed * block
    whole = blocks * block
    if index >= whole:
        return whole + feistel_permutation(index - whole, size - whole, *key, _REST)
    start = index // window * window
    length, part = min(window, whole - start), _ROWS if start + window <= whole else _LAST
    place = start + feistel_permutation(index - start, length, *key, part)
    return feistel_permutation(place // block, blocks, *key, _BLOCKS) * block + place % block


def block_permutation_all(
    indices: NDArray[np.int64], size: int, block: int, mixed: int, *key: int
) -> NDArray[np.int64]:
    """Return ``block_permutation`` of many ``indices`` [n] at once."""
    blocks, window = size // block, mixed * block
    whole = blocks * block
    starts = indices // window * window
    result = indices.copy()
    rest = indices >= whole
    result[rest] = whole + feistel_permutation_all(indices[rest] - whole, size - whole, *key, _REST)
    last = whole // window * window
    for part, length, here in (
        (_ROWS, window, ~rest & (indices < last)),
        (_LAST, whole - last, ~rest & (indices >= last)),
    ):
        place = starts[here] + feistel_permutation_all(indices[here] - starts[here], length, *key, part)
        moved = feistel_permutation_all(place // block, blocks, *key, _BLOCKS)
        result[here] = moved * block + place % block
    return result
