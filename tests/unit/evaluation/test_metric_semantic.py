"""Semantic mIoU and pixel accuracy: hand-made cases and a slow implementation."""

from __future__ import annotations

import numpy as np
import pytest

from ullava.evaluation.metrics.semantic import ClassAnswer, SemanticMasks


def row_mask(*columns: int) -> np.ndarray:
    mask = np.zeros((1, 6), dtype=bool)
    mask[0, list(columns)] = True
    return mask


def test_by_hand() -> None:
    metric = SemanticMasks()
    metric.update(
        [
            ClassAnswer("sky", row_mask(0, 1, 2), 0.6, row_mask(0, 1)),  # 2 / 3
            ClassAnswer("sea", row_mask(2, 3), 0.9, row_mask(2, 3, 4)),  # 2 / 3, and wins pixel 2
        ]
    )
    metric.update([ClassAnswer("sky", None, 0.0, row_mask(0))])  # 0 / 1
    assert metric.details() == pytest.approx({"sea": 200 / 3, "sky": 50.0})
    figures = metric.compute()
    assert figures["mIoU"] == pytest.approx((200 / 3 + 50) / 2)
    assert figures["pixel_accuracy"] == pytest.approx(100 * (2 + 2 + 0) / (2 + 3 + 1))


def test_ignored_pixels_count_nowhere() -> None:
    metric = SemanticMasks()
    rows = metric.update([ClassAnswer("sky", row_mask(0, 1, 5), 0.6, row_mask(0, 1))], ignore=row_mask(1, 5))
    assert rows[0] == {"class": "sky", "intersection": 1, "union": 1, "labeled": 1, "right": 1}


def test_against_slow_implementation() -> None:
    rng = np.random.default_rng(3)
    names = ["a", "b", "c"]
    inter, union = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    right = labeled = 0
    metric = SemanticMasks()
    for _ in range(6):
        label = rng.integers(0, 4, (5, 5))  # 3: no class
        answers = [
            ClassAnswer(name, rng.random((5, 5)) < 0.4, float(rng.random()), label == number)
            for number, name in enumerate(names)
        ]
        metric.update(answers)
        for y in range(5):
            for x in range(5):
                over = [(a.score, n) for n, a in enumerate(answers) if a.predicted is not None and a.predicted[y, x]]
                for number, name in enumerate(names):
                    hit = answers[number].predicted[y, x]  # type: ignore[index]
                    inter[name] += int(hit and label[y, x] == number)
                    union[name] += int(hit or label[y, x] == number)
                if label[y, x] < 3:
                    labeled += 1
                    right += int(bool(over) and max(over)[1] == label[y, x])
    figures = metric.compute()
    assert figures["mIoU"] == pytest.approx(100 * np.mean([inter[n] / union[n] for n in names]))
    assert figures["pixel_accuracy"] == pytest.approx(100 * right / labeled)


def test_nothing_to_score() -> None:
    assert SemanticMasks().compute() == {}
    assert SemanticMasks().update([]) == []
