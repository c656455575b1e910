from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ullava.config.schema import DatasetEntry
from ullava.data.sampling.mixture import Mixture, MixtureSampler
from ullava.data.sampling.permutation import feistel_permutation
from ullava.errors import ConfigError
from ullava.structures import Sample


@dataclass
class Counted:
    """A dataset of numbers whose samples show what was drawn."""

    id: str
    size: int
    split: str = "train"
    task: str = "text"
    drawn: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return self.size

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        return Sample(f"{self.id}/{index}/{rng.random()}", self.id, "text", (), ())


def mixture(seed: int = 0, **entries: tuple[int, dict]) -> Mixture:
    datasets = [Counted(name, size) for name, (size, _) in entries.items()]
    return Mixture(datasets, [DatasetEntry(**options) for _, options in entries.values()], seed)


def epoch(mixed: Mixture, number: int = 0) -> list[tuple[int, int]]:
    start = number * mixed.positions_per_epoch
    return [mixed.locate(start + place)[:2] for place in range(mixed.positions_per_epoch)]


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 100), key=st.lists(st.integers(0, 2**63), max_size=3))
def test_permuted_is_a_permutation(size, key):
    assert sorted(feistel_permutation(index, size, *key) for index in range(size)) == list(range(size))


def test_permutations_look_random():
    """Each of 8 places is hit by each of 8 items about equally often over 1600 keys (chi-square, 49 degrees)."""
    counts = np.zeros((8, 8))
    for key in range(1600):
        for index in range(8):
            counts[index, feistel_permutation(index, 8, key)] += 1
    assert ((counts - 200) ** 2 / 200).sum() < 100
    order = [feistel_permutation(index, 1000, 5) for index in range(1000)]
    assert abs(np.corrcoef(order, range(1000))[0, 1]) < 0.1
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.1


def test_one_epoch_holds_every_item_once():
    mixed = mixture(a=(7, {}), b=(13, {"portion": 1.0}))
    expected = sorted([(0, index) for index in range(7)] + [(1, index) for index in range(13)])
    first, second = epoch(mixed), epoch(mixed, 1)
    assert sorted(first) == sorted(second) == expected
    assert first != second and first != expected


def test_a_portion_below_one_is_the_same_subset_in_every_epoch():
    mixed = mixture(a=(100, {"portion": 0.3}))
    chosen = set(epoch(mixed))
    assert len(chosen) == mixed.positions_per_epoch == 30
    assert set(epoch(mixed, 5)) == chosen
    assert set(epoch(mixture(seed=1, a=(100, {"portion": 0.3})))) != chosen


def test_a_portion_above_one_repeats_all_and_adds_a_subset():
    counts = Counter(index for _, index in epoch(mixture(a=(10, {"portion": 2.5}))))
    assert sorted(counts.values()) == [2] * 5 + [3] * 5


def test_products_are_not_cut_by_rounding():
    assert mixture(a=(10, {"portion": 0.7}), b=(30, {"portion": 0.1})).positions_per_epoch == 7 + 3


def test_weights_share_the_epoch_exactly_and_go_through_whole_datasets():
    mixed = mixture(small=(10, {"weight": 3.0}), large=(90, {"weight": 1.0}))
    assert [row["per_epoch"] for row in mixed.describe()] == [75, 25]
    assert [row["share"] for row in mixed.describe()] == [0.75, 0.25]
    drawn = epoch(mixed) + epoch(mixed, 1)
    small = Counter(index for number, index in drawn if number == 0)
    large = Counter(index for number, index in drawn if number == 1)
    assert set(small.values()) == {15}
    assert len(large) == 50, "two epochs show 50 different ones of 90"
    whole = Counter(index for n in range(18) for number, index in epoch(mixed, n) if number == 1)
    assert set(whole.values()) == {5}, "18 epochs of 25 are five whole laps of 90"


def test_weights_that_do_not_divide_still_fill_the_epoch():
    mixed = mixture(a=(5, {"weight": 1.0}), b=(5, {"weight": 1.0}), c=(7, {"weight": 1.0}))
    assert sum(row["per_epoch"] for row in mixed.describe()) == 17
    assert {row["per_epoch"] for row in mixed.describe()} == {5, 6}


def test_a_position_gives_the_same_whoever_asks_and_in_any_order():
    entries = {"a": (20, {"portion": 1.5}), "b": (9, {})}
    one, other = mixture(seed=3, **entries), mixture(seed=3, **entries)
    forward = [one.sample(position).name for position in range(100)]
    backward = [other.sample(position).name for position in reversed(range(100))][::-1]
    assert forward == backward
    assert forward != [mixture(seed=4, **entries).sample(position).name for position in range(100)]


def test_repeats_of_an_item_are_drawn_anew():
    mixed = mixture(a=(3, {"portion": 4.0}))
    names = [mixed.sample(position).name for position in range(24)]
    assert len(set(names)) == 24


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a": (5, {"weight": 1.0}), "b": (5, {})}, "either every entry has a weight or none; b has none"),
        ({"a": (5, {"weight": 1.0, "portion": 1.0})}, "a: give a portion or a weight, not both"),
        ({"a": (5, {"portion": 0.0})}, "dataset.a.portion: has to be above 0, not 0.0"),
        ({"a": (5, {"weight": -1.0})}, "dataset.a.weight: has to be above 0"),
        ({"a": (5, {"portion": float("inf")})}, "has to be above 0, not inf"),
        ({"a": (5, {"portion": 0.1})}, "leave nothing to train on"),
        ({}, "nothing to train on"),
    ],
)
def test_shares_that_make_no_sense_are_refused(entries, message):
    with pytest.raises(ConfigError, match=message):
        mixture(**entries)


def test_the_sampler_gives_the_positions_of_its_epoch():
    sampler = MixtureSampler(mixture(a=(4, {})))
    assert (list(sampler), len(sampler)) == ([0, 1, 2, 3], 4)
    sampler.set_epoch(2)
    assert list(sampler) == [8, 9, 10, 11]


def test_the_sampler_serves_torch_loaders_with_any_number_of_workers():
    data = pytest.importorskip("torch.utils.data")
    mixed = mixture(a=(6, {}), b=(6, {}))

    class Names(data.Dataset):
        def __getitem__(self, position: int) -> str:
            return mixed.sample(position).name

    orders = []
    for workers in (0, 2):
        sampler = MixtureSampler(mixed, epoch=1)
        loader = data.DataLoader(Names(), batch_size=5, sampler=sampler, num_workers=workers)
        orders.append([name for batch in loader for name in batch])
    assert orders[0] == orders[1] and len(orders[0]) == 12
