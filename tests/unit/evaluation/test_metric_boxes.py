"""REC: hand-made cases and a slow implementation."""

from __future__ import annotations

import numpy as np
import pytest

from ullava.evaluation.metrics.boxes import ReferringBoxes


def slow_iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    def area(box: tuple[float, ...]) -> float:
        return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)

    inter = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = area(a) + area(b) - inter
    return inter / union if inter > 0 else 0.0


def test_rec_by_hand() -> None:
    metric = ReferringBoxes()
    metric.update((0, 0, 10, 10), (0, 0, 10, 10))  # 1
    metric.update((0, 0, 10, 8), (0, 0, 10, 10))  # 0.8
    metric.update((0, 0, 10, 5), (0, 0, 10, 10))  # 0.5: not above
    metric.update((20, 20, 30, 30), (0, 0, 10, 10))  # 0
    metric.update(None, (0, 0, 10, 10))  # a miss that stays in the denominator
    figures = metric.compute()
    assert figures["Acc@0.5"] == pytest.approx(40.0)
    assert figures["Acc@0.75"] == pytest.approx(40.0)
    assert figures["Acc@0.9"] == pytest.approx(20.0)
    assert figures["mIoU"] == pytest.approx(100 * 2.3 / 5)
    assert [row["missing"] for row in metric.rows] == [False, False, False, False, True]


def test_an_inverted_box_has_no_overlap() -> None:
    metric = ReferringBoxes()
    metric.update((10, 10, 0, 0), (0, 0, 10, 10))
    assert metric.rows[0]["iou"] == 0.0


def test_against_slow_implementation() -> None:
    rng = np.random.default_rng(0)
    metric = ReferringBoxes()
    for _ in range(40):
        corners = rng.uniform(0, 20, (2, 2, 2))
        first, second = (tuple(float(v) for v in np.sort(c, axis=0).ravel()) for c in corners)
        row = metric.update(first, second)  # type: ignore[arg-type]
        assert row["iou"] == pytest.approx(slow_iou(first, second))
