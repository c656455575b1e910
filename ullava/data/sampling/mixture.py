"""Several datasets as one endless sequence: what stands at a position depends on the seed and the position alone.

So a resumed run, another number of workers or of processes sees the same samples. Nothing is shuffled in memory: an
epoch's order is a permutation that is computed element by element.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ullava.config.schema import DatasetEntry
from ullava.data.readers.base import TaskDataset
from ullava.data.sampling.blocks import OPEN_BLOCKS, block_permutation, block_permutation_all
from ullava.data.sampling.permutation import feistel_permutation, feistel_permutation_all
from ullava.errors import ConfigError
from ullava.structures import Sample

_ORDER, _SUBSET, _PASS = 1, 2, 3


class Mixture:
    """Datasets with their ratios. ``positions_per_epoch`` positions make an epoch; there is no last one.

    With ``portion`` p an epoch holds every item of a dataset floor(p) times, and a seeded subset, the same in every
    epoch, once more (none given: 1). With ``weight``, an epoch is as long as all datasets together and is shared out
    by weight; every dataset is gone through whole, in a new order each time, across epochs.

    ``shuffle_block``: that many items of a dataset stay near each other in the order (ullava.data.sampling.blocks); a
    portion is then made of such blocks.
    """

    def __init__(
        self,
        datasets: Sequence[TaskDataset],
        entries: Sequence[DatasetEntry],
        seed: int,
        shuffle_block: int | None = None,
    ) -> None:
        self.datasets = list(datasets)
        self.seed = seed
        self.shuffle_block = shuffle_block
        self.entries = list(entries)
        self.by_weight = _check(self.datasets, self.entries)
        self._sizes = [len(dataset) for dataset in self.datasets]
        self._counts = self._shares() if self.by_weight else self._portions()
        self._ends = list(accumulate(self._counts))
        self.positions_per_epoch = self._ends[-1]
        if not self.positions_per_epoch:
            raise ConfigError("dataset: the portions leave nothing to train on")

    def __len__(self) -> int:
        """Return the number of positions in an epoch."""
        return self.positions_per_epoch

    def locate(self, position: int) -> tuple[int, int, np.random.Generator]:
        """Return dataset number, index in it, and the random numbers that belong to ``position`` (from 0)."""
        epoch, offset = divmod(position, self.positions_per_epoch)
        slot = self._permuted(offset, self.positions_per_epoch, _ORDER, epoch)
        number = bisect_right(self._ends, slot)
        turn = slot - (self._ends[number] - self._counts[number])
        size = self._sizes[number]
        if self.by_weight:
            lap, place = divmod(epoch * self._counts[number] + turn, size)
            index = self._permuted(place, size, _PASS, number, lap)
        elif turn < self._counts[number] // size * size:
            index = turn % size
        else:
            index = self._permuted(turn % size, size, _SUBSET, number)
        return number, index, np.random.default_rng([self.seed, position])

    def epoch_items(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return dataset number and index at every position of an epoch, [positions] each, as ``locate`` would."""
        places = np.arange(self.positions_per_epoch, dtype=np.int64)
        slots = self._permuted_all(places, self.positions_per_epoch, _ORDER, epoch)
        numbers = np.searchsorted(self._ends, slots, side="right").astype(np.int64)
        indices = np.zeros_like(slots)
        for number, (size, count, end) in enumerate(zip(self._sizes, self._counts, self._ends, strict=True)):
            here = numbers == number
            turns = slots[here] - (end - count)
            indices[here] = turns % max(size, 1)
            if self.by_weight:
                laps, within = np.divmod(epoch * count + turns, max(size, 1))
                found = np.empty_like(turns)
                for lap in np.unique(laps).tolist():
                    found[laps == lap] = self._permuted_all(within[laps == lap], size, _PASS, number, lap)
                indices[here] = found
            else:
                drawn = here.nonzero()[0][turns >= count // max(size, 1) * size]
                indices[drawn] = self._permuted_all(indices[drawn], size, _SUBSET, number)
        return numbers, indices

    def sample(self, position: int) -> Sample:
        """Return the training sample at ``position``; raises SampleError."""
        number, index, rng = self.locate(position)
        return self.datasets[number].sample(index, rng)

    def source(self, position: int) -> str:
        """Return file, line and record of the sample at ``position``."""
        number, index, _ = self.locate(position)
        return self.datasets[number].sources(index)

    def describe(self) -> list[dict[str, Any]]:
        """Return one row a dataset: id, split, task, items, positions per epoch, and their share."""
        return [
            {
                "dataset": dataset.id,
                "split": dataset.split,
                "task": dataset.task,
                "items": size,
                "per_epoch": count,
                "share": count / self.positions_per_epoch,
            }
            for dataset, size, count in zip(self.datasets, self._sizes, self._counts, strict=True)
        ]

    def _permuted(self, index: int, size: int, *key: int) -> int:
        if self.shuffle_block is None:
            return feistel_permutation(index, size, self.seed, *key)
        return block_permutation(index, size, self.shuffle_block, _mixed(key), self.seed, *key)

    def _permuted_all(self, indices: NDArray[np.int64], size: int, *key: int) -> NDArray[np.int64]:
        if self.shuffle_block is None:
            return feistel_permutation_all(indices, size, self.seed, *key)
        return block_permutation_all(indices, size, self.shuffle_block, _mixed(key), self.seed, *key)

    def _portions(self) -> list[int]:
        portions = [1.0 if entry.portion is None else entry.portion for entry in self.entries]
        # A hair more than the product: 0.1 * 30 must not become 2 by rounding.
        return [math.floor(size * portion + 1e-9) for size, portion in zip(self._sizes, portions, strict=True)]

    def _shares(self) -> list[int]:
        """Share the epoch out by weight, whole positions, largest remainders first."""
        weights = [entry.weight or 0.0 for entry in self.entries]
        total, epoch = math.fsum(weights), sum(self._sizes)
        exact = [epoch * weight / total for weight in weights]
        counts = [math.floor(share) for share in exact]
        by_remainder = sorted(range(len(exact)), key=lambda number: counts[number] - exact[number])
        for number in by_remainder[: epoch - sum(counts)]:
            counts[number] += 1
        return counts


class MixtureSampler:
    """Yields the positions of one epoch, in order; torch's DataLoader takes it as its ``sampler``.

    ``block``: how many rows belong together; a run can only be gone on with at the same number.
    """

    block = 1

    def __init__(self, mixture: Mixture, epoch: int = 0) -> None:
        self._length = mixture.positions_per_epoch
        self._epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to another epoch (from 0)."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of positions in an epoch."""
        return self._length

    def __iter__(self) -> Iterator[int]:
        """Yield the epoch's positions."""
        return iter(range(self._epoch * self._length, (self._epoch + 1) * self._length))


def _mixed(key: tuple[int, ...]) -> int:
    """How many blocks are mixed: those of an epoch; where each dataset goes on below that, one at a time."""
    return OPEN_BLOCKS if key[0] == _ORDER else 1


def _check(datasets: Sequence[TaskDataset], entries: Sequence[DatasetEntry]) -> bool:
    """Return whether the entries go by weight; raises ConfigError for a mix of both or numbers out of range."""
    problems = []
    if not datasets:
        problems.append("dataset: nothing to train on")
    for dataset, entry in zip(datasets, entries, strict=True):
        for key in ("portion", "weight"):
            value = getattr(entry, key)
            if value is not None and not (math.isfinite(value) and value > 0):
                problems.append(f"dataset.{dataset.id}.{key}: has to be above 0, not {value}")
    weighted = [dataset.id for dataset, entry in zip(datasets, entries, strict=True) if entry.weight is not None]
    others = [dataset.id for dataset in datasets if dataset.id not in weighted]
    both = [d.id for d, e in zip(datasets, entries, strict=True) if e.weight is not None and e.portion is not None]
    if both:
        problems.append(f"dataset.{both[0]}: give a portion or a weight, not both")
    if weighted and others:
        problems.append(f"dataset: either every entry has a weight or none; {', '.join(others)} has none")
    if problems:
        raise ConfigError(problems)
    return bool(weighted)
