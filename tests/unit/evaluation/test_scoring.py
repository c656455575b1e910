"""What of an answer is compared with what of the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ullava.errors import SampleError
from ullava.evaluation.scoring import SCORERS, best_box, true_box, true_mask, united_mask
from ullava.structures import Answer, GroundedObject, MaskArray, Region, Sample, Task, Turn


def columns(*places: int) -> MaskArray:
    mask = np.zeros((4, 8), dtype=bool)
    mask[:, list(places)] = True
    return mask


def thing(mask: MaskArray | None, score: float = 0.5, box: Any = None, image: int = 0) -> GroundedObject:
    return GroundedObject("thing", (0, 1), mask, box, score, image=image)


def sample(task: Task, *regions: Region, answer: str = "", **truth: Any) -> Sample:
    return Sample("d/s/0", "d", task, (Path("a.jpg"),), (Turn("<image>?", answer, regions),), truth)


def test_masks_of_an_answer_are_united() -> None:
    answer = Answer("", (thing(columns(0)), thing(columns(1)), thing(None), thing(columns(7), image=1)))
    assert np.array_equal(united_mask(answer), columns(0, 1))  # type: ignore[arg-type]
    assert united_mask(Answer("", (thing(None),))) is None
    row = SCORERS["res"]().score(sample("res", Region("x", columns(0)), Region("x", columns(1))), answer)
    assert row["iou"] == 1.0


def test_the_best_box_is_that_of_the_highest_score() -> None:
    low, high = (0.0, 0.0, 1.0, 1.0), (1.0, 1.0, 3.0, 3.0)
    answer = Answer("", (thing(None, 0.2, low), thing(None, 0.7, high), thing(columns(0), 0.9), thing(None, 1, low, 1)))
    assert best_box(answer) == high
    assert best_box(Answer("")) is None


def test_a_box_is_taken_from_the_mask_where_there_is_none() -> None:
    assert true_box(sample("rec", Region("x", columns(2, 3)))) == (2, 0, 4, 4)
    with pytest.raises(SampleError, match="2"):
        true_box(sample("rec", Region("x", columns(2)), Region("x", columns(3))))
    with pytest.raises(SampleError, match="no box"):
        true_box(sample("rec", Region("x")))


def test_a_truth_without_mask_is_named() -> None:
    with pytest.raises(SampleError, match="d/s/0"):
        true_mask(sample("res", Region("x", None, (0, 0, 1, 1))))


def test_pixels_left_open_by_the_annotation_do_not_count() -> None:
    asked = sample("semantic", Region("sky", columns(0, 1)), **{"class": "sky", "ignore_mask": columns(2)})
    assert SCORERS["semantic"]().score(asked, Answer("", (thing(columns(0, 1, 2)),)))["union"] == 8
    with pytest.raises(SampleError, match="'class'"):
        SCORERS["semantic"]().score(sample("semantic", Region("sky", columns(0))), Answer(""))


def test_crowds_reach_the_instance_metric() -> None:
    crowd = {"size": [4, 8], "counts": [0, 4, 28]}
    asked = sample("instance", Region("x", columns(3)), image_id=1, category="x", height=4, width=8, crowd=[crowd])
    row = SCORERS["instance"]().score(asked, Answer("", (thing(columns(3), 0.25),)))
    assert row["crowd"] == [False, True]
    assert row["detections"][0]["score"] == 0.25
    broken = sample("instance", Region("x", columns(3)), image_id=1, category="x", height=4, width=8, crowd=[{"a": 1}])
    with pytest.raises(SampleError, match="crowd"):
        SCORERS["instance"]().score(broken, Answer(""))


def test_words_are_compared_without_grounding_tokens() -> None:
    asked = sample("vqa", answer="Two.", accepted=["two"], answer_type="count")
    assert SCORERS["vqa"]().score(asked, Answer("Two. [SEG]"))["right"] is True
    assert SCORERS["text"]().score(sample("text", answer="Blue."), Answer("blue"))["right"] is True
