"""Captions of moving scenes: what is said about the way a thing moves is checked too."""

from __future__ import annotations

from typing import Any

import pytest

from ullava.evaluation.intervals import bootstrap
from ullava.evaluation.metrics.answers import ShortAnswers
from ullava.synthetic.facts import check_facts

MOVING: dict[str, Any] = {
    "count": 2,
    "objects": [
        {"role": "listed", "colour": "red", "shape": "circle", "motion": "left"},
        {"role": "listed", "colour": "blue", "shape": "star", "motion": "still"},
    ],
}


@pytest.mark.parametrize(
    ("caption", "right", "complete"),
    [
        ("There are two shapes: a red circle that moves left and a blue star that stays.", True, True),
        ("There are two shapes: a blue star that stays and a red circle that moves left.", True, True),
        ("There are two shapes: a red circle that moves right and a blue star that stays.", False, False),
        ("There are two shapes: a red circle that stays and a blue star that moves left.", False, False),
        ("There are two shapes: a red circle that moves left and a blue star that moves up.", False, False),
        ("There are two shapes: a red circle and a blue star.", True, False),
        ("A red circle moves to the left.", True, False),
    ],
)
def test_motion_is_part_of_the_facts(caption: str, right: bool, complete: bool) -> None:
    check = check_facts(caption, MOVING)
    assert (check.right, check.complete) == (right, complete)


def test_the_questions_about_one_video_are_drawn_together() -> None:
    records = [
        {"id": f"{video}/{place}", "image": None, "video": video, "scores": {"right": video == "a", "kind": ""}}
        for video in "ab"
        for place in range(50)
    ]
    assert bootstrap(records, ShortAnswers, 60)["accuracy"] == [0.0, 100.0]
    low, high = bootstrap([record | {"video": None} for record in records], ShortAnswers, 60)["accuracy"]
    assert 30 < low < high < 70


def test_words_of_direction_do_no_harm_where_nothing_moves() -> None:
    facts = {"count": 1, "objects": [{"role": "listed", "colour": "red", "shape": "circle", "size": "small"}]}
    check = check_facts("There is one shape: a small red circle, on the left.", facts)
    assert check.right and check.complete
