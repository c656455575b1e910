"""Referring expression comprehension: one expression, one box.

``Acc@t``: share of expressions whose box has an IoU above t with the true box; ``mAcc``: mean of Acc@t over t = 0.50,
0.55 ... 0.95 (Ref-L4, 2406.16866); ``mIoU``: mean IoU. An answer without a box has IoU 0 and stays in the denominator
(the original leaves such expressions out).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from scipy.optimize import linear_sum_assignment

from ullava.evaluation.metrics.concepts import IOU_LEVELS, concepts_left_out, put_concepts
from ullava.evaluation.metrics.rows import CLASS, Metric, Row, by_group, column, put_mean
from ullava.evaluation.metrics.selective import put_selective, risk_coverage, selective_left_out
from ullava.geometry import box_iou
from ullava.structures import BoxXYXY

ACCURACY_LEVELS = (0.5, 0.75, 0.9)
MATCHED = 0.5


class ReferringBoxes(Metric):
    """REC. Rows: ``iou``, ``missing`` (the answer has no box).

    Of rows with a ``class``, ``class-average Acc@0.5`` and ``class-average mAcc`` are the means over the classes.
    """

    def update(self, predicted_xyxy: BoxXYXY | None, truth_xyxy: BoxXYXY) -> Row:
        """Measure one expression; both boxes in one frame, float64 throughout. An inverted box has no area: IoU 0."""
        iou = 0.0 if predicted_xyxy is None else float(box_iou([predicted_xyxy], [truth_xyxy])[0, 0])
        return self.add({"iou": iou, "missing": predicted_xyxy is None})

    def compute(self) -> dict[str, float]:
        """Return ``Acc@0.5``, ``Acc@0.75``, ``Acc@0.9``, ``mAcc`` and ``mIoU``, and the averages over classes."""
        figures: dict[str, float] = {}
        ious = column(self.rows, "iou")
        for level in ACCURACY_LEVELS:
            put_mean(figures, f"Acc@{level}", (iou > level for iou in ious))
        put_mean(figures, "mAcc", map(_levels_passed, ious))
        put_mean(figures, "mIoU", ious)
        classes: dict[str, list[float]] = defaultdict(list)
        for row in self.rows:
            if CLASS in row:
                classes[row[CLASS]].append(row["iou"])
        means = [(_mean(iou > 0.5 for iou in own), _mean(map(_levels_passed, own))) for own in classes.values()]
        put_mean(figures, "class-average Acc@0.5", (accuracy for accuracy, _ in means))
        put_mean(figures, "class-average mAcc", (accuracy for _, accuracy in means))
        return figures

    def details(self) -> dict[str, float]:
        """Return ``Acc@0.5`` and ``mAcc`` of each group of questions."""
        return by_group(self, ("Acc@0.5", "mAcc"))


class WrittenBoxes(ReferringBoxes):
    """REC of boxes that the model writes out (protocol ``text_box``): ``Acc@t`` counts an IoU of exactly t too."""

    def compute(self) -> dict[str, float]:
        """Return ``Acc@0.5``, ``Acc@0.75``, ``Acc@0.9``, ``mAcc``, ``mIoU``, ``read``: answers with four numbers."""
        figures: dict[str, float] = {}
        ious = column(self.rows, "iou")
        for level in ACCURACY_LEVELS:
            put_mean(figures, f"Acc@{level}", (iou >= level for iou in ious))
        put_mean(figures, "mAcc", (_mean(iou >= level for level in IOU_LEVELS) for iou in ious))
        put_mean(figures, "mIoU", ious)
        put_mean(figures, "read", (not row["missing"] for row in self.rows))
        return figures


class GeneralizedReferringBoxes(Metric):
    """REC with one, several or no targets (GREC, He et al. 2023).

    ``Acc@t`` and ``mIoU`` are over expressions with one target, as in REC. ``Pr@F1``: share of all expressions whose
    boxes are right as a set: each target is met by a box of its own with IoU of 0.5 or more and no box is left over;
    without a target, no box at all. ``N-acc``, ``T-acc``: as for masks. Rows: ``iou`` (best box; none unless there is
    one target), ``exact``, ``no_target``, ``none_found``; ``things`` (IoU of boxes) and ``there`` as for masks.
    """

    def update(
        self, predicted_xyxy: Sequence[BoxXYXY], best_xyxy: BoxXYXY | None, truth_xyxy: Sequence[BoxXYXY]
    ) -> Row:
        """Measure one expression: all boxes of the answer, the best one (None: no box), all true boxes."""
        row: Row = {"no_target": not truth_xyxy, "none_found": not predicted_xyxy}
        if len(truth_xyxy) == 1:
            row["iou"] = 0.0 if best_xyxy is None else float(box_iou([best_xyxy], list(truth_xyxy))[0, 0])
        row["exact"] = len(predicted_xyxy) == len(truth_xyxy) and _all_met(predicted_xyxy, truth_xyxy)
        return self.add(row)

    def compute(self) -> dict[str, float]:
        """Return ``Acc@0.5``, ``Acc@0.75``, ``Acc@0.9``, ``mAcc``, ``mIoU``, ``Pr@F1``, ``N-acc``, ``T-acc``, and the
        figures of things and of sureness.
        """
        figures: dict[str, float] = {}
        ious = column((row for row in self.rows if "iou" in row), "iou")
        for level in ACCURACY_LEVELS:
            put_mean(figures, f"Acc@{level}", (iou > level for iou in ious))
        put_mean(figures, "mAcc", map(_levels_passed, ious))
        put_mean(figures, "mIoU", ious)
        put_mean(figures, "Pr@F1", column(self.rows, "exact"))
        put_mean(figures, "N-acc", (row["none_found"] for row in self.rows if row["no_target"]))
        put_mean(figures, "T-acc", (not row["none_found"] for row in self.rows if not row["no_target"]))
        put_concepts(figures, self.rows)
        put_selective(figures, self.rows)
        return figures

    def details(self) -> dict[str, float]:
        """Return the chief figures of each group of questions."""
        return by_group(self, ("Acc@0.5", "mAcc", "Pr@F1", "N-acc"))

    def left_out(self) -> dict[str, str]:
        """See Metric."""
        return concepts_left_out(self.rows) | selective_left_out(self.rows)

    def curve(self) -> dict[str, Any]:
        """See Metric."""
        return risk_coverage(self.rows)


def _levels_passed(iou: float) -> float:
    return _mean(iou > level for level in IOU_LEVELS)


def _mean(values: Iterable[float]) -> float:
    kept = list(values)
    return math.fsum(kept) / len(kept)


def _all_met(predicted: Sequence[BoxXYXY], truth: Sequence[BoxXYXY]) -> bool:
    """Return whether boxes and targets, as many of each, can be paired with an IoU of 0.5 or more throughout."""
    if not truth:
        return True
    fits = box_iou(list(predicted), list(truth)) >= MATCHED
    rows, columns = linear_sum_assignment(fits, maximize=True)
    return bool(fits[rows, columns].all())
