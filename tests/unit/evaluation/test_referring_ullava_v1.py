from __future__ import annotations

import numpy as np
import pytest

from ullava.evaluation.metrics.boxes import ReferringBoxes
from ullava.evaluation.metrics.masks import ReferringMasks
from ullava.evaluation.metrics.referring_ullava_v1 import ReleasedBoxes, ReleasedMasks
from ullava.evaluation.scorers import scorer_of

HALF = np.zeros((10, 10), np.bool_)
HALF[:, :5] = True


def test_a_missing_mask_leaves_the_sums_of_ciou_only() -> None:
    strict, released = ReferringMasks(), ReleasedMasks()
    for metric in (strict, released):
        metric.update(HALF, HALF)
        metric.update(None, HALF)
    assert strict.compute()["cIoU"] == 50.0 and released.compute()["cIoU"] == 100.0
    assert strict.compute()["gIoU"] == 50.0
    assert released.compute()["gIoU"] == pytest.approx(50.0, abs=1e-4)
    assert released.compute()["gIoU"] < 50.0, "the union is a little larger there"


def test_a_missing_box_leaves_the_denominator() -> None:
    strict, released = ReferringBoxes(), ReleasedBoxes()
    for metric in (strict, released):
        metric.update((0.0, 0.0, 4.0, 4.0), (0.0, 0.0, 4.0, 4.0))
        metric.update(None, (0.0, 0.0, 4.0, 4.0))
    assert strict.compute()["Acc@0.5"] == 50.0 and released.compute()["Acc@0.5"] == 100.0


def test_the_recipe_chooses() -> None:
    assert scorer_of("res", "strict").kind is ReferringMasks
    assert scorer_of("res", "as_released").kind is ReleasedMasks
    assert scorer_of("rec", "as_released").kind is ReleasedBoxes
    assert scorer_of("salient", "as_released") is scorer_of("salient", "strict")
