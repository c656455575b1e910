"""Salient objects: a map in [0, 1] (or a binary mask) against a binary truth.

With p the map, g the truth, t one of 256 thresholds k/255 and "binary at t" meaning p >= t:

``mIoU``   mean over images of the IoU at 0.5 (what u-LLaVA's salient table matches); ``cIoU`` the cumulative one
``MAE``    mean over images of mean |p - g|
``maxF``   F with beta^2 = 0.3 at every threshold, averaged over images, then the best threshold
``S``      structure measure, alpha 0.5 (Fan et al. 2017): half object-aware, half region-aware similarity
``meanE``, ``maxE``, ``adpE``  enhanced alignment (Fan et al. 2018), averaged over images; mean and maximum over the
           thresholds, and at the adaptive one: twice the mean of p, at most 1. Divided by the number of pixels as in
           the paper (published programs divide by one less, which is visible only in tiny images).

Maps are taken as they are: they are not stretched to [0, 1] first. For binary masks the thresholds above 0 all agree.
Curves are kept as run lengths, so a row of a binary mask has two entries, not 256.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ullava.evaluation.metrics.overlap import iou_of, overlap
from ullava.evaluation.metrics.rows import Metric, Row, column, put_mean, put_ratio
from ullava.structures import MaskArray

SaliencyMap = NDArray[np.floating] | MaskArray
Curve = NDArray[np.float64]

BETA_SQUARED = 0.3
LEVELS = 256
_TINY = 1e-12


class SalientMaps(Metric):
    """Rows: ``intersection``, ``union``, ``iou``, ``mae``, ``s``, ``adaptive_e``, ``f_curve``, ``e_curve``."""

    def update(self, predicted: SaliencyMap | None, truth: MaskArray) -> Row:
        """Measure one image: a map [H, W] in [0, 1] or a mask (None: nothing found) against a mask [H, W].

        Raises ValueError for maps outside [0, 1] or of another size than the truth.
        """
        saliency = np.zeros(truth.shape) if predicted is None else np.asarray(predicted, dtype=np.float64)
        if saliency.shape != truth.shape:
            raise ValueError(f"map {saliency.shape} and truth {truth.shape} have different sizes")
        if not (np.isfinite(saliency).all() and saliency.min() >= 0 and saliency.max() <= 1):
            raise ValueError("a saliency map lies in [0, 1]")
        intersection, union = overlap(saliency >= 0.5, truth)
        hits, alarms = hits_and_alarms(saliency, truth)
        foreground = int(np.count_nonzero(truth))
        return self.add(
            {
                "intersection": intersection,
                "union": union,
                "iou": iou_of(intersection, union),
                "mae": float(np.abs(saliency - truth).mean()),
                "s": structure_measure(saliency, truth),
                "adaptive_e": adaptive_alignment(saliency, truth),
                "f_curve": pack(f_scores(hits, alarms, foreground)),
                "e_curve": pack(alignment(hits, alarms, foreground, truth.size)),
            }
        )

    def compute(self) -> dict[str, float]:
        """Return ``mIoU``, ``cIoU``, ``maxF``, ``S``, ``meanE``, ``maxE``, ``adpE`` and ``MAE``."""
        figures: dict[str, float] = {}
        if not self.rows:
            return figures
        put_mean(figures, "mIoU", column(self.rows, "iou"))
        put_ratio(figures, "cIoU", column(self.rows, "intersection"), column(self.rows, "union"))
        figures["maxF"] = 100.0 * float(_mean_curve(self.rows, "f_curve").max())
        put_mean(figures, "S", column(self.rows, "s"))
        e_curve = _mean_curve(self.rows, "e_curve")
        figures["meanE"] = 100.0 * float(e_curve.mean())
        figures["maxE"] = 100.0 * float(e_curve.max())
        put_mean(figures, "adpE", column(self.rows, "adaptive_e"))
        put_mean(figures, "MAE", column(self.rows, "mae"))
        return figures


def hits_and_alarms(saliency: Curve, truth: MaskArray) -> tuple[Curve, Curve]:
    """Return, for each threshold k/255, the pixels at or above it inside and outside the truth: two curves [256]."""
    # The highest threshold that a pixel reaches; the small term keeps k/255 itself on the near side of the rounding.
    reached = np.floor(saliency * (LEVELS - 1) + 1e-9).astype(np.int64)
    inside = np.bincount(reached[truth], minlength=LEVELS)
    outside = np.bincount(reached[~truth], minlength=LEVELS)
    return _at_or_above(inside), _at_or_above(outside)


def _at_or_above(counts: NDArray[np.intp]) -> Curve:
    return np.cumsum(counts[::-1])[::-1].astype(np.float64)


def f_scores(hits: Curve, alarms: Curve, foreground: int) -> Curve:
    """F with beta^2 = 0.3 at each threshold: (1 + b) P R / (b P + R); 1 where neither side has a pixel."""
    scores = (1 + BETA_SQUARED) * hits / np.maximum(BETA_SQUARED * foreground + hits + alarms, _TINY)
    return np.where(foreground + alarms == 0, 1.0, scores)


def alignment(hits: Curve, alarms: Curve, foreground: int, pixels: int) -> Curve:
    """Return the enhanced alignment of binary maps given their counts: [n] for n thresholds.

    Each pixel's agreement is 2 a b / (a^2 + b^2) of the two maps less their means, then ((1 + agreement) / 2)^2. A map
    and a truth that are binary have four kinds of pixels, so four values with their counts are the whole sum. A truth
    that is empty (or full) has no variation: the share of pixels that agree is returned.
    """
    if foreground in (0, pixels):
        return (pixels - alarms if foreground == 0 else hits) / pixels
    share, true_share = (hits + alarms) / pixels, foreground / pixels
    total = np.zeros_like(hits)
    misses = foreground - hits
    for value, true_value, count in (
        (1, 1, hits),
        (1, 0, alarms),
        (0, 1, misses),
        (0, 0, pixels - hits - alarms - misses),
    ):
        a, b = value - share, true_value - true_share
        agreement = 2 * a * b / (a * a + b * b)  # b is never 0 here
        total += count * (1 + agreement) ** 2 / 4
    return np.asarray(total / pixels)


def adaptive_alignment(saliency: Curve, truth: MaskArray) -> float:
    """Return the enhanced alignment at twice the mean of the map (at most 1); a map of zeros stays empty."""
    binary = saliency >= min(2 * float(saliency.mean()), 1.0)
    if not saliency.any():
        binary = np.zeros_like(truth)
    hits = np.array([np.count_nonzero(binary & truth)], dtype=np.float64)
    alarms = np.array([np.count_nonzero(binary & ~truth)], dtype=np.float64)
    return float(alignment(hits, alarms, int(np.count_nonzero(truth)), truth.size)[0])


def structure_measure(saliency: Curve, truth: MaskArray) -> float:
    """Return half the object-aware plus half the region-aware similarity, at least 0."""
    true_share = float(truth.mean())
    if true_share == 0.0:
        return 1.0 - float(saliency.mean())
    if true_share == 1.0:
        return float(saliency.mean())
    by_object = true_share * _object_similarity(saliency[truth])
    by_object += (1 - true_share) * _object_similarity(1 - saliency[~truth])
    return max(0.0, 0.5 * by_object + 0.5 * _region_similarity(saliency, truth))


def _object_similarity(values: Curve) -> float:
    """2 x / (x^2 + 1 + s) of the mean x and the (sample) deviation s of the map where it should be 1."""
    mean = float(values.mean())
    deviation = float(values.std(ddof=1)) if values.size > 1 else 0.0
    return 2 * mean / (mean * mean + 1 + deviation)


def _region_similarity(saliency: Curve, truth: MaskArray) -> float:
    """Structural similarity of the four quarters cut at the truth's center of mass, weighted by area."""
    rows, columns = np.nonzero(truth)
    height, width = truth.shape
    # The row and the column of the center belong to the upper left quarter.
    bottom, right = round(float(rows.mean())) + 1, round(float(columns.mean())) + 1
    total = 0.0
    for part in (
        np.s_[:bottom, :right],
        np.s_[:bottom, right:],
        np.s_[bottom:, :right],
        np.s_[bottom:, right:],
    ):
        if truth[part].size:
            total += truth[part].size * _structural_similarity(saliency[part], truth[part].astype(np.float64))
    return float(total / (height * width))


def _structural_similarity(x: Curve, y: Curve) -> float:
    """4 mx my cov / ((mx^2 + my^2)(vx + vy)), sample variances; 0 / 0 is 1 (the paper's convention)."""
    mean_x, mean_y = float(x.mean()), float(y.mean())
    degrees = max(x.size - 1, 1)
    variance_x = float(((x - mean_x) ** 2).sum()) / degrees
    variance_y = float(((y - mean_y) ** 2).sum()) / degrees
    covariance = float(((x - mean_x) * (y - mean_y)).sum()) / degrees
    numerator = 4 * mean_x * mean_y * covariance
    denominator = (mean_x**2 + mean_y**2) * (variance_x + variance_y)
    if numerator != 0.0:
        return numerator / denominator
    return 1.0 if denominator == 0.0 else 0.0


def pack(curve: Curve) -> list[list[float]]:
    """Write a curve as [value, how often] pairs."""
    return [[float(value), float(len(list(same)))] for value, same in groupby(curve.tolist())]


def unpack(pairs: list[list[float]]) -> Curve:
    """Read [value, how often] pairs back to a curve."""
    return np.repeat([value for value, _ in pairs], [int(often) for _, often in pairs]).astype(np.float64)


def _mean_curve(rows: list[Row], name: str) -> Curve:
    """Return the mean curve [256] of all rows, summed in an order that the rows' order does not change."""
    curves = np.sort(unpack([pair for row in rows for pair in row[name]]).reshape(len(rows), LEVELS), axis=0)
    return np.asarray(curves.sum(axis=0) / len(rows))
