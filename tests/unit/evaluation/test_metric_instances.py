"""Instance AP: hand-made cases, and a slow implementation of COCO's precision-recall sum."""

from __future__ import annotations

import numpy as np
import pytest

from ullava.evaluation.metrics.instances import InstanceMasks
from ullava.geometry import mask_iou


def block(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((40, 60), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def slow_ap(images: list[tuple[list[tuple[np.ndarray, float]], list[np.ndarray]]]) -> float:
    """AP of one category: greedy matching by score, precision made monotone, 101 recall points, ten thresholds."""
    total = sum(len(truth) for _, truth in images)
    values = []
    for level in np.linspace(0.5, 0.95, 10):
        marks: list[tuple[float, bool]] = []
        for found, truth in images:
            free = list(range(len(truth)))
            for mask, score in sorted(found, key=lambda pair: -pair[1]):
                best = max(free, key=lambda place: mask_iou(mask, truth[place]), default=None)
                hit = best is not None and mask_iou(mask, truth[best]) >= level
                if hit and best is not None:
                    free.remove(best)
                marks.append((score, hit))
        marks.sort(key=lambda pair: -pair[0])
        hits = np.cumsum([hit for _, hit in marks])
        precision = hits / np.arange(1, len(marks) + 1)
        recall = hits / total
        for point in np.linspace(0, 1, 101):
            reached = precision[recall >= point]
            values.append(reached.max() if reached.size else 0.0)
    return float(np.mean(values))


def test_perfect_and_empty() -> None:
    truth = [block(0, 0, 10, 10), block(20, 20, 10, 10)]
    metric = InstanceMasks()
    metric.update("1", "cat", [(mask, 0.9) for mask in truth], truth)
    assert metric.compute()["AP"] == pytest.approx(100.0)
    nothing = InstanceMasks()
    nothing.update("1", "cat", [], truth)
    assert nothing.compute()["AP"] == 0.0


def test_by_hand() -> None:
    # One of two found, with IoU 0.8: right at seven of ten thresholds (0.5 ... 0.8), recall 1/2 (51 of 101 points).
    metric = InstanceMasks()
    metric.update("1", "cat", [(block(0, 0, 10, 8), 0.9)], [block(0, 0, 10, 10), block(20, 20, 10, 10)])
    assert metric.compute()["AP50"] == pytest.approx(100 * 51 / 101)
    assert metric.compute()["AP"] == pytest.approx(100 * 51 / 101 * 0.7)


def test_crowds_are_neither_hit_nor_miss() -> None:
    crowd = block(0, 30, 30, 30)
    metric = InstanceMasks()
    found = [(block(0, 0, 10, 10), 0.5), (block(5, 35, 10, 10), 0.9)]
    metric.update("1", "cat", found, [block(0, 0, 10, 10), crowd], crowd=[False, True])
    assert metric.compute()["AP"] == pytest.approx(100.0)


def test_against_slow_implementation() -> None:
    rng = np.random.default_rng(5)
    images = []
    metric = InstanceMasks()
    for number in range(6):
        truth = [block(int(t), int(left), 10, 14) for t, left in zip((1, 14, 27), rng.integers(0, 40, 3), strict=True)]
        found = []
        for mask in truth:
            if rng.random() < 0.8:
                found.append((np.roll(mask, int(rng.integers(0, 5)), axis=1), float(rng.random())))
        found.append((block(0, 0, 5, 5), float(rng.random())))
        images.append((found, truth))
        metric.update(str(number), "cat", found, truth)
    assert 20 < metric.compute()["AP"] < 95
    assert metric.compute()["AP"] == pytest.approx(100 * slow_ap(images))


def test_crowd_marks_must_fit() -> None:
    with pytest.raises(ValueError, match="crowd marks"):
        InstanceMasks().update("1", "cat", [], [block(0, 0, 2, 2)], crowd=[])
