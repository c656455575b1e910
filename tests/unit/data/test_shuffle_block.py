from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.data.test_mixture import Counted

from ullava.config.schema import DatasetEntry, TrainRecipe
from ullava.data.sampling.blocks import OPEN_BLOCKS, block_permutation, block_permutation_all
from ullava.data.sampling.mixture import Mixture


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 200), block=st.integers(1, 40), mixed=st.integers(1, 5), key=st.integers(0, 2**63))
def test_blocks_are_a_permutation_one_by_one_and_at_once(size, block, mixed, key):
    order = [block_permutation(index, size, block, mixed, key) for index in range(size)]
    assert sorted(order) == list(range(size))
    assert block_permutation_all(np.arange(size), size, block, mixed, key).tolist() == order


def test_so_many_blocks_are_open_at_a_time():
    order = [block_permutation(index, 10_007, 50, OPEN_BLOCKS, 3) for index in range(10_007)]
    window = OPEN_BLOCKS * 50
    for start in range(0, 10_000, window):
        assert len({number // 50 for number in order[start : start + window]}) == OPEN_BLOCKS
    assert set(order[10_000:]) == set(range(10_000, 10_007))
    firsts = [order[start] // 50 for start in range(0, 10_000, 50)]
    assert abs(np.corrcoef(firsts, range(len(firsts)))[0, 1]) < 0.3, "blocks come in no order"


@pytest.mark.parametrize("ways", [{"portion": (1, 2.5)}, {"weight": (3, 1)}])
def test_a_mixture_in_blocks_is_exact_and_told_by_position(ways):
    ((key, (one, other)),) = ways.items()
    entries = [DatasetEntry(**{key: one}), DatasetEntry(**{key: other})]
    datasets = [Counted("a", 100), Counted("b", 40)]
    mixed = Mixture(datasets, entries, seed=5, shuffle_block=8)
    plain = Mixture(datasets, entries, seed=5)
    assert len(mixed) == len(plain)
    for epoch in range(2):
        start = epoch * len(mixed)
        seen = [mixed.locate(start + place)[:2] for place in range(len(mixed))]
        counts = Counter(number for number, _ in seen)
        assert [counts[number] for number in (0, 1)] == [row["per_epoch"] for row in plain.describe()]
        assert [*zip(*(part.tolist() for part in mixed.epoch_items(epoch)), strict=True)] == seen
    if key == "portion":
        times = Counter(seen)
        assert {times[0, index] for index in range(100)} == {1}
        assert Counter(times[1, index] for index in range(40)) == {2: 20, 3: 20}


def test_neighbors_stay_near():
    mixed = Mixture([Counted("a", 8000)], [DatasetEntry()], seed=1, shuffle_block=100)
    blocks = [mixed.locate(place)[1] // 100 for place in range(8000)]
    assert max(len(set(blocks[start : start + 100])) for start in range(0, 8000, 100)) <= OPEN_BLOCKS


def test_grouping_by_length_would_part_the_blocks():
    with pytest.raises(ValueError, match="shuffle_block keeps neighbors together, group_by_modality_length parts them"):
        TrainRecipe(model="tiny", stage="ground", dataset={}, shuffle_block=4, group_by_modality_length=True)
