"""RES and GRES: hand-made cases, and a slow pixel-by-pixel implementation on random masks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ullava.evaluation.metrics.masks import GeneralizedReferringMasks, ReferringMasks
from ullava.evaluation.metrics.overlap import overlap


def square(top: int, left: int, side: int, size: int = 8) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def slow_iou(predicted: np.ndarray, truth: np.ndarray, ignore: np.ndarray) -> tuple[int, int]:
    inter = union = 0
    for p, t, i in zip(predicted.ravel(), truth.ravel(), ignore.ravel(), strict=True):
        if not i:
            inter += int(p and t)
            union += int(p or t)
    return inter, union


def test_res_by_hand() -> None:
    metric = ReferringMasks()
    metric.update(square(0, 0, 4), square(0, 0, 4))  # 16 / 16
    metric.update(square(0, 0, 4), square(0, 2, 4))  # 8 / 24
    metric.update(None, square(0, 0, 2))  # 0 / 4
    figures = metric.compute()
    assert figures["cIoU"] == pytest.approx(100 * 24 / 44)
    assert figures["gIoU"] == pytest.approx(100 * (1 + 1 / 3 + 0) / 3)
    assert figures["P@0.5"] == figures["P@0.9"] == pytest.approx(100 / 3)


def test_precision_needs_more_than_the_level() -> None:
    metric = ReferringMasks()
    metric.update(square(0, 0, 2), np.pad(square(0, 0, 2, 2), ((0, 6), (0, 6))) | square(2, 0, 2))  # 4 / 8
    assert metric.rows[0]["iou"] == 0.5
    assert metric.compute()["P@0.5"] == 0.0


def test_two_empty_masks_agree() -> None:
    metric = ReferringMasks()
    metric.update(None, np.zeros((4, 4), dtype=bool))
    assert metric.compute()["gIoU"] == 100.0
    assert "cIoU" not in metric.compute()


def test_overlap_against_slow_loop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        shape = (int(rng.integers(1, 9)), int(rng.integers(1, 9)))
        predicted, truth, ignore = (rng.random(shape) < q for q in (0.5, 0.4, 0.2))
        assert overlap(predicted, truth, ignore) == slow_iou(predicted, truth, ignore)


def test_masks_of_different_size_are_refused() -> None:
    with pytest.raises(ValueError, match="different sizes"):
        overlap(square(0, 0, 2, 8), square(0, 0, 2, 9))


def test_gres_by_hand() -> None:
    metric = GeneralizedReferringMasks()
    metric.update(None, None, no_target=True)  # 1
    metric.update(square(0, 0, 2), None, no_target=True)  # 0, adds 4 to the union
    metric.update(square(0, 0, 4), square(0, 2, 4), no_target=False)  # 8 / 24
    metric.update(None, square(0, 0, 4), no_target=False)  # 0 / 16
    metric.update(square(0, 0, 4), square(0, 0, 4), no_target=False)  # 16 / 16
    figures = metric.compute()
    assert figures["gIoU"] == pytest.approx(100 * (1 + 0 + 1 / 3 + 0 + 1) / 5)
    assert figures["cIoU"] == pytest.approx(100 * 24 / (4 + 24 + 16 + 16))
    assert figures["N-acc"] == pytest.approx(50.0)
    assert figures["T-acc"] == pytest.approx(200 / 3)
    assert figures["P@0.5"] == pytest.approx(100 / 3)


def test_a_blank_mask_is_not_a_rejection() -> None:
    metric = GeneralizedReferringMasks()
    metric.update(np.zeros((4, 4), dtype=bool), None, no_target=True)
    assert metric.compute() == {"gIoU": 0.0, "N-acc": 0.0}


def test_pixels_to_ignore_count_nowhere_with_any_number_of_targets() -> None:
    metric = GeneralizedReferringMasks()
    row = metric.update(square(0, 0, 4), square(0, 0, 2), no_target=False, ignore=square(0, 2, 6))
    assert (row["intersection"], row["union"]) == (4, 8)
    assert metric.update(square(0, 0, 4), None, no_target=True, ignore=square(0, 2, 6))["union"] == 8


def test_shards_merge_to_the_same_figures() -> None:
    rng = np.random.default_rng(1)
    pairs = [(rng.random((6, 6)) < 0.5, rng.random((6, 6)) < 0.5) for _ in range(9)]
    whole, first, second = ReferringMasks(), ReferringMasks(), ReferringMasks()
    for place, (predicted, truth) in enumerate(pairs):
        whole.update(predicted, truth)
        (first if place % 2 else second).update(predicted, truth)
    first.merge(ReferringMasks(json.loads(json.dumps(second.state()))))
    assert first.compute() == whole.compute()


def test_other_kinds_do_not_merge() -> None:
    with pytest.raises(TypeError):
        ReferringMasks().merge(GeneralizedReferringMasks())  # type: ignore[arg-type]
