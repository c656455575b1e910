"""Referring expression comprehension: one expression, one box.

``Acc@t``: share of expressions whose box has an IoU above t with the true box; ``mIoU``: mean IoU. An answer without a
box has IoU 0 and stays in the denominator (the original leaves such expressions out).
"""

from __future__ import annotations

from ullava.evaluation.metrics.rows import Metric, Row, column, put_mean
from ullava.geometry import box_iou
from ullava.structures import BoxXYXY

ACCURACY_LEVELS = (0.5, 0.75, 0.9)


class ReferringBoxes(Metric):
    """REC. Rows: ``iou``, ``missing`` (the answer has no box)."""

    def update(self, predicted_xyxy: BoxXYXY | None, truth_xyxy: BoxXYXY) -> Row:
        """Measure one expression; both boxes in one frame, float64 throughout. An inverted box has no area: IoU 0."""
        iou = 0.0 if predicted_xyxy is None else float(box_iou([predicted_xyxy], [truth_xyxy])[0, 0])
        return self.add({"iou": iou, "missing": predicted_xyxy is None})

    def compute(self) -> dict[str, float]:
        """Return ``Acc@0.5``, ``Acc@0.75``, ``Acc@0.9`` and ``mIoU``."""
        figures: dict[str, float] = {}
        ious = column(self.rows, "iou")
        for level in ACCURACY_LEVELS:
            put_mean(figures, f"Acc@{level}", (iou > level for iou in ious))
        put_mean(figures, "mIoU", ious)
        return figures
