"""Batches of alike rows: the positions of an epoch in another order, still told by seed and epoch alone.

MG-LLaVA, AVG-LLaVA and ConvLLaVA train so (their released trainers): rows with images, with videos and of words
alone in batches of their own, of about one length each, so that little is spent on padding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ullava.data.annotations.text_lengths import Kind, TextLengths
from ullava.data.sampling.mixture import Mixture, MixtureSampler

BLOCKS_SORTED = 50
"""So many blocks, at most, are sorted by length together; the fewer, the more chance there is in what meets what."""
_GROUPS = 4


class GroupedSampler(MixtureSampler):
    """Yields the positions of one epoch in blocks of ``block`` alike rows (all processes' batches of one pass).

    Every position comes once. What is left over of each kind is joined at the end of the epoch, so that only there a
    block may hold several kinds, or be short.
    """

    def __init__(self, mixture: Mixture, block: int, epoch: int = 0) -> None:
        super().__init__(mixture, epoch)
        self.block = block
        self._mixture = mixture
        self._sizes = [dataset.text_lengths() for dataset in mixture.datasets]

    def __iter__(self) -> Iterator[int]:
        """Yield the epoch's positions."""
        order = grouped_order(self._epoch_sizes(), self.block, (self._mixture.seed, _GROUPS, self._epoch))
        return iter((order + self._epoch * self._length).tolist())

    def _epoch_sizes(self) -> TextLengths:
        numbers, indices = self._mixture.epoch_items(self._epoch)
        kinds = np.zeros(self._length, dtype=np.uint8)
        characters = np.zeros(self._length, dtype=np.float32)
        for number, sizes in enumerate(self._sizes):
            here = numbers == number
            kinds[here], characters[here] = sizes.kinds[indices[here]], sizes.characters[indices[here]]
        return TextLengths(kinds, characters)


def grouped_order(sizes: TextLengths, block: int, key: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the places 0 … n - 1 of ``sizes`` in the order in which they are trained on.

    Rows of one kind, as they come, are taken ``BLOCKS_SORTED`` blocks at a time (fewer where there are not four times
    as many), sorted by length, longest first, and cut into blocks. All whole blocks are then shuffled by ``key``.
    """
    whole: list[NDArray[np.int64]] = []
    left: list[NDArray[np.int64]] = []
    for kind in Kind:
        rows = np.flatnonzero(sizes.kinds == kind)
        count = len(rows) // block
        together = max(1, min(BLOCKS_SORTED, count // 4)) * block
        for start in range(0, count * block, together):
            part = _longest_first(rows[start : min(start + together, count * block)], sizes)
            whole.extend(part.reshape(-1, block))
        left.append(_longest_first(rows[count * block :], sizes))
    shuffled = np.random.default_rng(key).permutation(len(whole))
    return np.concatenate([np.empty(0, np.int64), *(whole[place] for place in shuffled), *left])


def _longest_first(rows: NDArray[np.int64], sizes: TextLengths) -> NDArray[np.int64]:
    return rows[np.argsort(-sizes.characters[rows], kind="stable")]
