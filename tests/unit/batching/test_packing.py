"""Which dialogues share a row, and what a collator makes of that."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ullava.batching.collate import Collator
from ullava.batching.packing import packed
from ullava.examples import Example, ImageExample, TokenCount
from ullava.text.tokens import IGNORE_LABEL

PAD = 99


def example(name: str, length: int, images: tuple[ImageExample, ...] = ()) -> Example:
    """A dialogue of ids that begin at 100 * its name, every one supervised."""
    ids = 100 * int(name) + np.arange(length)
    return Example(name, "test", "text", ids, ids.copy(), images, (), np.zeros((0, 4), np.float32))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 80))
def test_every_dialogue_comes_once_and_no_row_is_overfull(lengths: list[int], tokens: int) -> None:
    rows = packed(lengths, tokens)
    assert sorted(chain.from_iterable(rows)) == list(range(len(lengths)))
    for row in rows:
        assert row == sorted(row)
        assert row and sum(lengths[place] for place in row) <= max([tokens, *lengths])


def test_rows_are_as_few_as_first_fit_makes_and_even() -> None:
    rows = packed([50, 40, 30, 30, 20, 20, 10], 100)
    assert len(rows) == 2
    assert [sum([50, 40, 30, 30, 20, 20, 10][place] for place in row) for row in rows] == [100, 100]
    assert packed([90, 60, 40, 10], 100) == [[0, 3], [1, 2]]
    assert packed([500, 10, 10], 100) == [[0], [1, 2]]


def test_long_tailed_lengths_fill_their_rows() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(50):
        lengths = np.clip(rng.lognormal(5.3, 0.7, 32), 20, 2048).astype(int).tolist()
        longest = max(sum(lengths[place] for place in row) for row in packed(lengths, 2048))
        shares.append(sum(lengths) / (longest * len(packed(lengths, 2048))))
    assert np.mean(shares) >= 0.95


def test_a_collator_puts_dialogues_one_after_another() -> None:
    batch = Collator(PAD, tokens=7)([example("1", 5), example("2", 3), example("3", 2), example("4", 3)])
    inputs, _ = batch.usable()
    assert batch.names == ("1", "3", "2", "4")
    assert inputs.input_ids.tolist() == [[100, 101, 102, 103, 104, 300, 301], [200, 201, 202, 400, 401, 402, PAD]]
    assert inputs.dialogues.tolist() == [[1] * 5 + [2] * 2, [1] * 3 + [2] * 3 + [0]]
    assert inputs.attention_mask.tolist() == [[1] * 7, [1] * 6 + [0]]
    assert inputs.labels[0].tolist() == [100, 101, 102, 103, 104, IGNORE_LABEL, 301]
    plain = Collator(PAD)([example("1", 5), example("2", 3)]).usable()[0]
    assert plain.dialogues is None and plain.input_ids.tolist()[1] == [200, 201, 202, PAD, PAD]
    left = Collator(PAD, "left")([example("1", 2), example("2", 1)]).usable()[0]
    assert left.input_ids.tolist() == [[100, 101], [PAD, 200]] and left.attention_mask.tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(("high", "rows"), [(3, 1), (4, 2)])
def test_visual_tokens_that_are_open_count_with_the_most_they_may_be(high: int, rows: int) -> None:
    image = ImageExample("a", (4, 4), {"base": np.zeros((3, 4, 4), np.uint8)}, {}, TokenCount(1, high), None)
    batch = Collator(PAD, tokens=10)([example("1", 4, (image,)), example("2", 4)])
    assert len(batch.usable()[0].input_ids) == rows
