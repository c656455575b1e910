"""Which frames are seen: as many as asked for, in order, inside the clip, for every length."""

from __future__ import annotations

from random import Random

import pytest

from ullava.errors import DataError
from ullava.media.frames import SAMPLERS, choose_frames, head_tail_frames, uniform_frames

LENGTHS = (*range(1, 70), 100, 163, 300, 5001)


@pytest.mark.parametrize("sampling", ["uniform", "head_tail"])
@pytest.mark.parametrize("count", [1, 2, 4, 7, 8, 13, 15])
def test_always_as_many_as_asked_for_in_order_and_inside(sampling: str, count: int) -> None:
    for length in LENGTHS:
        chosen = choose_frames(length, count, sampling, seed=length)  # type: ignore[arg-type]
        assert len(chosen) == count, length
        assert chosen == sorted(chosen) and 0 <= chosen[0] and chosen[-1] < length, (length, chosen)
        if length >= count:
            assert len(set(chosen)) == count, (length, chosen)
        elif sampling == "uniform":
            assert set(chosen) == set(range(length)), (length, chosen)


def test_uniform_steps_are_as_even_as_whole_numbers_allow() -> None:
    for length in range(8, 70):
        chosen = [*uniform_frames(length, 8), length]
        steps = [after - before for before, after in zip(chosen, chosen[1:], strict=False)]
        assert chosen[0] == 0 and max(steps) - min(steps) <= 1


def test_head_tail_draws_from_both_halves_and_repeats_with_its_seed() -> None:
    for length in (8, 9, 17, 40):
        chosen = head_tail_frames(length, 8, Random(3))
        assert sum(number < length // 2 for number in chosen) == 4
        assert chosen == head_tail_frames(length, 8, Random(3))
    assert len({tuple(choose_frames(40, 8, "head_tail", seed)) for seed in range(20)}) > 15


def test_a_single_frame_is_shown_again_and_again() -> None:
    assert choose_frames(1, 4) == [0, 0, 0, 0]
    assert choose_frames(1, 5, "head_tail") == [0] * 5


def test_what_cannot_be_chosen_is_refused() -> None:
    with pytest.raises(DataError, match="did you mean 'head_tail'"):
        choose_frames(8, 8, "headtail")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="8 frames cannot be chosen from 0"):
        choose_frames(0, 8)
    assert set(SAMPLERS) == {"uniform", "head_tail", "original_uniform", "original_head_tail"}
