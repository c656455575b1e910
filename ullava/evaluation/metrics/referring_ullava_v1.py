"""RES and REC counted as u-LLaVA's evaluation counts them: a parity switch (``counting: as_released`` in a recipe).

An answer without a mask leaves the sums of cIoU (and counts as 0 in gIoU); one without a box leaves the denominator of
the accuracy; the union under every IoU of gIoU is 1e-5 larger. By default what is missing is a miss everywhere.
"""

from __future__ import annotations

from ullava.evaluation.metrics.boxes import ReferringBoxes
from ullava.evaluation.metrics.masks import ReferringMasks
from ullava.evaluation.metrics.rows import Row, column, put_mean, put_ratio
from ullava.structures import MaskArray

UNION_EPSILON = 1e-5


class ReleasedMasks(ReferringMasks):
    """Rows as in ReferringMasks, with ``missing`` (the answer has no mask)."""

    def update(self, predicted: MaskArray | None, truth: MaskArray | None, ignore: MaskArray | None = None) -> Row:
        """Measure one expression; see ReferringMasks."""
        row = super().update(predicted, truth, ignore)
        row["missing"] = predicted is None
        return row

    def compute(self) -> dict[str, float]:
        """Return ``cIoU``, ``gIoU`` and ``P@0.5`` … ``P@0.9``."""
        figures = super().compute()
        present = [row for row in self.rows if not row.get("missing", False)]
        figures.pop("cIoU", None)
        put_ratio(figures, "cIoU", column(present, "intersection"), column(present, "union"))
        ious = [
            0.0
            if row.get("missing", False)
            else row["intersection"] / (row["union"] + UNION_EPSILON)
            if row["union"]
            else 1.0
            for row in self.rows
        ]
        put_mean(figures, "gIoU", ious)
        return figures


class ReleasedBoxes(ReferringBoxes):
    """Rows as in ReferringBoxes; those without a box do not count."""

    def compute(self) -> dict[str, float]:
        """Return the figures of ReferringBoxes over the answers that have a box."""
        return ReferringBoxes(row for row in self.rows if not row["missing"]).compute()
