"""Words of a mirrored image: turned where they mean a side, refused where they may not."""

from __future__ import annotations

import pytest

from ullava.data.augment.words import names_places, turned


@pytest.mark.parametrize(
    ("words", "mirrored"),
    [
        ("the left dog", "the right dog"),
        ("dog right", "dog left"),
        ("second from the left", "second from the right"),
        ("the second chair from the right", "the second chair from the left"),
        ("the leftmost chair", "the rightmost chair"),
        ("Left-hand side", "Right-hand side"),
        ("the right-handed batter", "the left-handed batter"),
        ("the cup to the left of the Right plate", "the cup to the right of the Left plate"),
        ("the dog right of the cat", "the dog left of the cat"),
        ("the man on right in blue", "the man on left in blue"),
        ("he is on the right in red", "he is on the left in red"),
        ("upper-left cup", "upper-right cup"),
        ("the first dog from left to right", "the first dog from right to left"),
        ("[tag]left dog[/tag]: Mask [SEG].", "[tag]right dog[/tag]: Mask [SEG]."),
        ("a bright red bus beside an upright bear", "a bright red bus beside an upright bear"),
        ("a stop sign", "a stop sign"),
        ("Where is right cow?", "Where is left cow?"),
    ],
)
def test_sides_are_turned_and_turned_back(words, mirrored):
    assert turned(words) == mirrored
    assert turned(mirrored) == words


@pytest.mark.parametrize(
    "words",
    [
        "right now",
        "pizza left on a plate",
        "what is left of the pizza",
        "two slices left",
        "two cups are left",
        "he left the room",
        "the dog that she left",
        "leftovers",
        "the left over pizza",
        "the man right behind her",
        "all right",
        "the right answer",
        "Is that right?",
        "human rights",
        "the bus with number 12",
        'the sign that says "go"',
        "the word on the left",
        "counter-clockwise",
        "le chat à gauche",
        "左边的狗",
    ],
)
def test_what_may_mean_something_else_is_not_turned(words):
    assert turned(words) is None


def test_a_list_from_left_to_right_stays_one_where_answers_are_sorted_so():
    words = "Find every dog, from left to right."
    assert turned(words, row_kept=True) == words
    assert turned(words) == "Find every dog, from right to left."
    assert turned("the second dog, left to right", row_kept=True) == "the second dog, right to left"


@pytest.mark.parametrize(
    "words", ["the left dog", "the largest cup", "the dog behind the cat", "two dogs", "third cup"]
)
def test_words_of_place_order_size_and_number_are_known(words):
    assert names_places(words)


@pytest.mark.parametrize(
    "words", ["the red dog", "Segment every dog, one by one.", "Find every dog, from left to right."]
)
def test_other_words_name_no_place(words):
    assert not names_places(words)
