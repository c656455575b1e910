"""Captions whose phrases have masks, or boxes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ullava.data.augment.changes import flipped
from ullava.errors import SampleError
from ullava.structures import Sample
from ullava.text.answers import split_objects
from ullava.text.tokens import strip_grounding

H, W = 20, 30
LEFT, RIGHT, TOP = [2, 5, 6, 4], [20, 5, 6, 4], [12, 0, 3, 3]
CAPTION = "Two dogs and a ball."


def square(bbox: list[int]) -> dict[str, Any]:
    x, y, w, h = bbox
    return {"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]], "bbox": bbox}


def record(**changes: Any) -> dict[str, Any]:
    dogs = {"span": [0, 8], "annotations": [square(RIGHT), square(LEFT)]}
    ball = {"span": [13, 19], "annotations": [square(TOP)]}
    made = {"image_path": "a.png", "height": H, "width": W, "caption": CAPTION, "phrases": [dogs, ball]}
    return made | changes


def columns(sample: Sample) -> list[int]:
    return [int(np.flatnonzero(region.mask.any(axis=0))[0]) for region in sample.turns[0].regions]


def test_phrases_are_marked_and_their_masks_stand_from_left_to_right(build: Any) -> None:
    dataset = build("grounded_captions", [record()])
    (query,) = dataset.queries(0)
    for sample in (dataset.sample(0, np.random.default_rng(1)), query):
        assert sample.turns[0].answer == "[tag]Two dogs[/tag][SEG][SEG] and [tag]a ball[/tag][SEG]."
        assert columns(sample) == [2, 20, 12] and sample.task == "gcg"
        assert [region.phrase for region in sample.turns[0].regions] == ["Two dogs", "Two dogs", "a ball"]
        assert all(region.box_xyxy_px is None for region in sample.turns[0].regions), "one token for each"
    assert query.truth["references"] == [CAPTION]
    assert query.truth["phrases"] == [{"words": "Two dogs", "objects": 2}, {"words": "a ball", "objects": 1}]
    asked = {dataset.sample(0, np.random.default_rng(seed)).turns[0].question for seed in range(30)}
    assert len(asked) == len(dataset.templates().texts)


def test_a_box_alone_is_located(build: Any) -> None:
    phrases = [{"span": [0, 8], "annotations": [{"bbox": RIGHT}, square(LEFT)]}]
    turn = build("grounded_captions", [record(phrases=phrases)]).queries(0)[0].turns[0]
    assert turn.answer == "[tag]Two dogs[/tag][SEG][LOC] and a ball."
    assert turn.regions[1].box_xyxy_px == (20.0, 5.0, 26.0, 9.0) and turn.regions[1].mask is None


def test_a_phrase_whose_place_is_not_known_is_measured_and_not_learned(build: Any) -> None:
    phrases = [{"words": "puppies", "annotations": [square(LEFT)]}, {"span": [13, 19], "annotations": [square(TOP)]}]
    dataset = build("grounded_captions", [record(phrases=phrases, references=["Dogs.", CAPTION])])
    (query,) = dataset.queries(0)
    assert query.truth["references"] == ["Dogs.", CAPTION] and columns(query) == [2, 12]
    assert query.turns[0].answer == "Two dogs and [tag]a ball[/tag][SEG]."
    with pytest.raises(SampleError, match=r"record 0: 'phrases\[0\]' \('puppies'\) has no 'span'"):
        dataset.sample(0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caption": " " + CAPTION}, "'caption' begins or ends with white space"),
        ({"caption": "Two dogs [SEG] and a ball."}, r"'caption' holds the special token \[SEG\]"),
        ({"phrases": [{"span": [0, 8]}]}, r"phrases\[0\]: no 'annotations'"),
        ({"phrases": [{"span": [0, 8], "annotations": []}]}, r"phrases\[0\]: 'annotations' is empty"),
        ({"phrases": [{"annotations": [square(LEFT)]}]}, r"phrases\[0\]: no 'words'"),
        ({"phrases": [{"span": [0, 88], "annotations": []}]}, r"'span' \[0, 88\] has to lie within the caption of 20"),
        ({"phrases": [{"span": [0, True], "annotations": []}]}, "'span' has to be two whole numbers"),
        ({"phrases": [{"span": [8, 9], "annotations": []}]}, "what stands at 'span' is blank"),
        ({"phrases": [record()["phrases"][1], record()["phrases"][0]]}, r"phrases\[1\]: .*\(from 19 on\)"),
        (
            {"phrases": [{"span": [0, 8], "annotations": [{"bbox": [0, 0, 99, 9]}]}]},
            r"s\[0\]: 'bbox' .*leaves",
        ),
    ],
)
def test_a_wrong_record_is_named(build: Any, changes: dict[str, Any], message: str) -> None:
    dataset = build("grounded_captions", [record(**changes)])
    with pytest.raises(SampleError, match=rf"tests/train/0.* .*notes\.json:1: record 0: (.*){message}"):
        dataset.queries(0)


def test_mirrored_masks_of_a_phrase_stand_from_left_to_right_again(build: Any) -> None:
    (query,) = build("grounded_captions", [record()]).queries(0)
    mirrored = flipped(query, W)
    assert mirrored is not None and columns(mirrored) == [W - 26, W - 8, W - 15]
    assert re.sub(r"\W", "", strip_grounding(mirrored.turns[0].answer)) == re.sub(r"\W", "", CAPTION)
    assert [thing.group for thing in split_objects(mirrored.turns[0].answer)] == [0, 0, 1]
    odd = replace(query, turns=(replace(query.turns[0], answer="Two dogs."),))
    assert [column for column in columns(flipped(odd, W))] == [W - 8, W - 26, W - 15]  # type: ignore[arg-type]
