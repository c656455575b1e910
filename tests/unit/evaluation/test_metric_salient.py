"""Saliency: hand-made cases, and slow implementations that loop over thresholds and pixels."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ullava.evaluation.metrics.salient import SalientMaps, pack, structure_measure, unpack


def slow_f(saliency: np.ndarray, truth: np.ndarray, level: float) -> float:
    binary = saliency >= level
    hits = int((binary & truth).sum())
    if hits == 0:
        return 0.0
    precision, recall = hits / int(binary.sum()), hits / int(truth.sum())
    return 1.3 * precision * recall / (0.3 * precision + recall)


def slow_e(binary: np.ndarray, truth: np.ndarray) -> float:
    share, true_share = binary.mean(), truth.mean()
    total = 0.0
    for p, t in zip(binary.ravel(), truth.ravel(), strict=True):
        a, b = float(p) - share, float(t) - true_share
        total += (1 + 2 * a * b / (a * a + b * b)) ** 2 / 4
    return total / truth.size


def slow_s(saliency: np.ndarray, truth: np.ndarray) -> float:
    def likeness(values: list[float]) -> float:
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else 0.0
        return 2 * mean / (mean**2 + 1 + deviation)

    height, width = truth.shape
    inside = [saliency[y, x] for y in range(height) for x in range(width) if truth[y, x]]
    outside = [1 - saliency[y, x] for y in range(height) for x in range(width) if not truth[y, x]]
    share = len(inside) / truth.size
    by_object = share * likeness(inside) + (1 - share) * likeness(outside)
    ys = [y for y in range(height) for x in range(width) if truth[y, x]]
    xs = [x for y in range(height) for x in range(width) if truth[y, x]]
    cut_y, cut_x = round(sum(ys) / len(ys)) + 1, round(sum(xs) / len(xs)) + 1
    by_region = 0.0
    for y_range in (range(cut_y), range(cut_y, height)):
        for x_range in (range(cut_x), range(cut_x, width)):
            p = [float(saliency[y, x]) for y in y_range for x in x_range]
            t = [float(truth[y, x]) for y in y_range for x in x_range]
            if not p:
                continue
            n = len(p)
            mp, mt = sum(p) / n, sum(t) / n
            degrees = max(n - 1, 1)
            vp = sum((v - mp) ** 2 for v in p) / degrees
            vt = sum((v - mt) ** 2 for v in t) / degrees
            cov = sum((v - mp) * (w - mt) for v, w in zip(p, t, strict=True)) / degrees
            top, bottom = 4 * mp * mt * cov, (mp**2 + mt**2) * (vp + vt)
            quality = top / bottom if top != 0 else (1.0 if bottom == 0 else 0.0)
            by_region += n / truth.size * quality
    return max(0.0, 0.5 * by_object + 0.5 * by_region)


def example(seed: int, soft: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.zeros((11, 14), dtype=bool)
    truth[2:7, 3:9] = True
    noise = rng.random(truth.shape)
    saliency = np.clip(0.6 * truth + 0.4 * noise, 0, 1) if soft else (noise < np.where(truth, 0.8, 0.2))
    return saliency, truth


def test_a_perfect_answer() -> None:
    _, truth = example(0, soft=False)
    metric = SalientMaps()
    metric.update(truth, truth)
    figures = metric.compute()
    for name in ("mIoU", "cIoU", "maxF", "S", "maxE", "adpE"):
        assert figures[name] == pytest.approx(100.0), name
    assert figures["MAE"] == 0.0


def test_an_empty_answer() -> None:
    _, truth = example(0, soft=False)
    metric = SalientMaps()
    metric.update(None, truth)
    figures = metric.compute()
    assert figures["mIoU"] == 0.0
    assert figures["MAE"] == pytest.approx(100 * truth.mean())
    # Half of the alignment measure's square root is left where one side has no variation: (1 + 0)^2 / 4.
    assert figures["adpE"] == pytest.approx(25.0)


def test_by_hand() -> None:
    truth = np.array([[True, True, False, False]])
    metric = SalientMaps()
    metric.update(np.array([[1.0, 0.4, 0.4, 0.0]]), truth)
    figures = metric.compute()
    assert figures["mIoU"] == pytest.approx(50.0)
    assert figures["MAE"] == pytest.approx(100 * (0.6 + 0.4) / 4)
    # Above 0.4: P = 1, R = 1/2; up to 0.4: P = 2/3, R = 1.
    assert figures["maxF"] == pytest.approx(100 * max(1.3 * 0.5 / 0.8, 1.3 * (2 / 3) / (0.2 + 1)))


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_against_slow_implementations(seed: int, soft: bool) -> None:
    saliency, truth = example(seed, soft)
    values = saliency.astype(float)
    row = SalientMaps().update(saliency, truth)
    places = list(range(0, 256, 17))
    f_curve, e_curve = unpack(row["f_curve"])[places], unpack(row["e_curve"])[places]
    assert f_curve.tolist() == pytest.approx([slow_f(values, truth, place / 255) for place in places])
    assert e_curve.tolist() == pytest.approx([slow_e(values >= place / 255, truth) for place in places])
    assert row["adaptive_e"] == pytest.approx(slow_e(values >= min(2 * values.mean(), 1.0), truth))
    assert row["s"] == pytest.approx(slow_s(values, truth))
    assert row["mae"] == pytest.approx(float(np.abs(values - truth).mean()))


def test_curves_are_averaged_before_the_best_threshold() -> None:
    metric = SalientMaps()
    pairs = [example(seed, soft=True) for seed in range(3)]
    for saliency, truth in pairs:
        metric.update(saliency, truth)
    curve = [np.mean([slow_f(s, t, k / 255) for s, t in pairs]) for k in range(256)]
    assert metric.compute()["maxF"] == pytest.approx(100 * max(curve))


def test_truth_that_is_empty_or_full() -> None:
    empty, full = np.zeros((4, 4), dtype=bool), np.ones((4, 4), dtype=bool)
    assert structure_measure(np.zeros((4, 4)), empty) == 1.0
    assert structure_measure(np.full((4, 4), 0.25), full) == 0.25
    metric = SalientMaps()
    metric.update(None, empty)
    assert metric.compute()["adpE"] == metric.compute()["mIoU"] == 100.0


def test_binary_rows_stay_small_and_survive_json() -> None:
    saliency, truth = example(4, soft=False)
    metric = SalientMaps()
    row = metric.update(saliency, truth)
    assert len(row["f_curve"]) == len(row["e_curve"]) == 2
    again = SalientMaps(json.loads(json.dumps(metric.state())))
    assert again.compute() == metric.compute()


def test_pack_and_unpack() -> None:
    curve = np.array([0.0, 0.0, 1.0, 0.5, 0.5])
    assert pack(curve) == [[0.0, 2.0], [1.0, 1.0], [0.5, 2.0]]
    assert unpack(pack(curve)).tolist() == curve.tolist()


def test_maps_outside_the_range_are_refused() -> None:
    truth = np.ones((2, 2), dtype=bool)
    for bad in (np.full((2, 2), 1.5), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="lies in"):
            SalientMaps().update(bad, truth)
    with pytest.raises(ValueError, match="different sizes"):
        SalientMaps().update(np.zeros((3, 2)), truth)
