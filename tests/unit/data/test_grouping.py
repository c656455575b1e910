"""Batches of alike rows: nothing lost, kinds apart, lengths together, one order for seed and epoch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ullava.config.schema import DatasetEntry
from ullava.data.annotations.text_lengths import Kind, RecordLengths, TextLengths
from ullava.data.sampling.grouping import GroupedSampler, grouped_order
from ullava.data.sampling.mixture import Mixture, MixtureSampler
from ullava.data.sampling.permutation import feistel_permutation, feistel_permutation_all


@dataclass
class Sized:
    """A dataset of one kind whose sample i has ``7 * i % 101`` characters."""

    id: str
    size: int
    kind: Kind
    split: str = "train"
    task: str = "text"

    def __len__(self) -> int:
        return self.size

    def text_lengths(self) -> TextLengths:
        characters = np.arange(self.size) * 7 % 101
        return TextLengths(np.full(self.size, self.kind, dtype=np.uint8), characters.astype(np.float32))


def mixture(seed: int = 0, by_weight: bool = False) -> Mixture:
    datasets: list[Any] = [
        Sized("seen", 301, Kind.IMAGES),
        Sized("told", 90, Kind.WORDS),
        Sized("filmed", 21, Kind.VIDEOS),
    ]
    numbers = [{"weight": 1.0}, {"weight": 2.0}, {"weight": 1.0}] if by_weight else [{}, {"portion": 2.4}, {}]
    return Mixture(datasets, [DatasetEntry(**options) for options in numbers], seed)


def kinds_and_sizes(mixed: Mixture, positions: list[int]) -> tuple[list[int], list[float]]:
    items = [mixed.locate(position)[:2] for position in positions]
    sizes = [dataset.text_lengths() for dataset in mixed.datasets]
    return [int(sizes[d].kinds[i]) for d, i in items], [float(sizes[d].characters[i]) for d, i in items]


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 300), key=st.lists(st.integers(0, 2**63), max_size=3))
def test_many_are_permuted_as_one(size: int, key: list[int]) -> None:
    expected = [feistel_permutation(index, size, *key) for index in range(size)]
    assert feistel_permutation_all(np.arange(size), size, *key).tolist() == expected


@pytest.mark.parametrize("by_weight", (False, True))
@pytest.mark.parametrize("epoch", (0, 3))
def test_an_epochs_items_are_those_at_its_positions(by_weight: bool, epoch: int) -> None:
    mixed = mixture(5, by_weight)
    start = epoch * mixed.positions_per_epoch
    expected = [mixed.locate(start + place)[:2] for place in range(mixed.positions_per_epoch)]
    numbers, indices = mixed.epoch_items(epoch)
    assert list(zip(numbers.tolist(), indices.tolist(), strict=True)) == expected


@pytest.mark.parametrize("by_weight", (False, True))
@pytest.mark.parametrize("epoch", (0, 2))
def test_every_position_comes_once_and_only_the_end_is_mixed(by_weight: bool, epoch: int) -> None:
    mixed, block = mixture(1, by_weight), 8
    order = list(GroupedSampler(mixed, block, epoch))
    start = epoch * mixed.positions_per_epoch
    assert sorted(order) == list(range(start, start + mixed.positions_per_epoch))
    kinds, _ = kinds_and_sizes(mixed, order)
    whole = sum(count // block for count in Counter(kinds).values())
    for place in range(whole):
        assert len(set(kinds[place * block : (place + 1) * block])) == 1
    assert len(order) - whole * block < 3 * block


def test_rows_of_a_block_are_of_about_one_length() -> None:
    mixed, block = mixture(1), 8

    def spread(order: list[int]) -> float:
        _, sizes = kinds_and_sizes(mixed, order)
        blocks = [sizes[start : start + block] for start in range(0, len(sizes), block)]
        return float(np.mean([max(rows) - min(rows) for rows in blocks]))

    assert spread(list(GroupedSampler(mixed, block))) < 0.4 * spread(list(MixtureSampler(mixed)))


def test_kinds_and_lengths_come_in_no_order_over_the_epoch() -> None:
    """Long after short, words after images: an order by length over the whole epoch would forget."""
    mixed, block = mixture(1), 8
    kinds, sizes = kinds_and_sizes(mixed, list(GroupedSampler(mixed, block)))
    firsts = kinds[: 50 * block : block]
    assert sum(one != other for one, other in zip(firsts, firsts[1:], strict=False)) > 10
    means = [np.mean(sizes[start : start + block]) for start in range(0, 50 * block, block)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4


def test_order_is_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = GroupedSampler(mixture(seed), 8)
        sampler.set_epoch(epoch)
        length = len(sampler)
        return [position % length for position in sampler]

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2) and order(1, 1) != order(2, 1)


def test_processes_share_each_block_and_a_resumed_one_goes_on() -> None:
    """As accelerate deals batches out, and as it leaves out those that a resumed run has had."""
    from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler
    from torch.utils.data import BatchSampler

    mixed, rows, world = mixture(3), 4, 2

    def batches(process: int, skip: int = 0) -> list[list[int]]:
        shard = BatchSamplerShard(BatchSampler(GroupedSampler(mixed, rows * world), rows, False), world, process)
        return list(SkipBatchSampler(shard, skip_batches=skip) if skip else shard)

    first, second = batches(0), batches(1)
    for one, other in list(zip(first, second, strict=True))[: len(first) - 4]:
        assert len(set(kinds_and_sizes(mixed, one + other)[0])) == 1
    assert batches(1, skip=7) == second[7:]
    trained = [position for batch in first + second for position in batch]
    assert set(trained) == set(range(mixed.positions_per_epoch))


def test_few_rows_are_not_all_sorted() -> None:
    """Of eight blocks two are sorted together, so that an epoch's blocks differ from the next one's."""
    sizes = TextLengths(np.zeros(32, np.uint8), np.arange(32, dtype=np.float32))
    blocks = grouped_order(sizes, 4, (1,)).reshape(-1, 4).tolist()
    pairs = sorted(sorted(block) for block in blocks)
    assert pairs == [[*range(start, start + 4)] for start in range(0, 32, 4)]
    assert all(block == sorted(block, reverse=True) for block in blocks)


def test_turns_and_images_scale_the_estimate() -> None:
    column = np.float32
    records = RecordLengths(np.array([1, 1, 1], np.uint8), np.array([30, 40, 0], column), np.array([3, 1, 0], column))
    assert records.capped(0).characters.tolist() == [30, 40, 0]
    assert records.capped(2).characters.tolist() == [20, 40, 0]
    images = records.grouped(np.array([0, 1, 2], np.int32), np.array([0, 2, 3], np.int32))
    assert images.capped(0).characters.tolist() == [50, 0]
    assert images.capped(1).characters.tolist() == [25, 0]
