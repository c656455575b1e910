"""Referring segmentation: one expression, one mask.

``cIoU`` (cumulative): sum of intersections over sum of unions. ``gIoU``: mean of the per-expression IoU; where neither
truth nor answer has a pixel it is 1. ``P@t``: share of expressions whose IoU is above t. An answer without a mask is
an empty mask everywhere (the released evaluation scripts of u-LLaVA; unlike the original it never leaves a sum or a
denominator).
"""

from __future__ import annotations

from typing import Any

from ullava.evaluation.metrics.candidates import CANDIDATE_FIGURES, candidate_figures, has_candidates
from ullava.evaluation.metrics.concepts import concepts_left_out, crowded_f1, put_concepts
from ullava.evaluation.metrics.overlap import iou_of, overlap
from ullava.evaluation.metrics.rows import Metric, Row, by_group, column, put_mean, put_ratio
from ullava.evaluation.metrics.selective import put_selective, risk_coverage, selective_left_out
from ullava.geometry import box_iou, mask_to_box_xyxy_px
from ullava.structures import BoxXYXY, MaskArray

PRECISION_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)


class ReferringMasks(Metric):
    """RES. Rows: ``intersection``, ``union`` (pixels), ``iou``; those of ullava.evaluation.metrics.candidates too."""

    def update(self, predicted: MaskArray | None, truth: MaskArray | None, ignore: MaskArray | None = None) -> Row:
        """Measure one expression: the united mask of the answer (None: no mask) against the united truth [H, W]."""
        intersection, union = overlap(predicted, truth, ignore)
        return self.add({"intersection": intersection, "union": union, "iou": iou_of(intersection, union)})

    def compute(self) -> dict[str, float]:
        """Return ``cIoU``, ``gIoU`` and ``P@0.5`` … ``P@0.9``."""
        figures: dict[str, float] = {}
        put_ratio(figures, "cIoU", column(self.rows, "intersection"), column(self.rows, "union"))
        ious = column(self.rows, "iou")
        put_mean(figures, "gIoU", ious)
        for level in PRECISION_LEVELS:
            put_mean(figures, f"P@{level}", (iou > level for iou in ious))
        return figures | candidate_figures(self.rows)

    def details(self) -> dict[str, float]:
        """Return ``gIoU`` and ``cIoU`` of each group of questions, and those of candidates where there are some."""
        return by_group(self, ("gIoU", "cIoU", *(("P@0.5", *CANDIDATE_FIGURES) if has_candidates(self.rows) else ())))


class GeneralizedReferringMasks(Metric):
    """GRES: expressions with one, several or no targets (gRefCOCO).

    The IoU of a no-target expression is 1 if the answer has no mask, else 0. ``cIoU`` takes all expressions: a mask
    where there is nothing adds to the union. ``N-acc``: share of no-target expressions answered without a mask;
    ``T-acc``: share of the others answered with one. ``P@t`` is over expressions with targets.
    Rows: ``intersection``, ``union``, ``iou``, ``no_target`` (truth), ``none_found`` (answer).

    Where an annotation gives a box alone, the box of the answer's mask is held against it (u-LLaVA's "mask to box"
    figure): ``mask-box Acc@0.5`` and ``mask-box mIoU``; those expressions are in no figure of masks. Rows then have
    ``mask_box_iou`` instead of the first three.

    Rows may also have ``things`` (ullava.evaluation.metrics.concepts: ``IL_MCC``, ``pmF1``, ``cgF1``) and ``there``
    (ullava.evaluation.metrics.selective: ``ECE``, ``AURC``).
    """

    def update(
        self,
        predicted: MaskArray | None,
        truth: MaskArray | None,
        no_target: bool,
        ignore: MaskArray | None = None,
    ) -> Row:
        """Measure one expression; ``predicted`` None means that the answer has no object with a mask.

        Pixels of ``ignore`` [H, W] count nowhere.
        """
        intersection, union = overlap(predicted, None if no_target else truth, ignore)
        found = predicted is not None
        iou = float(not found) if no_target else (iou_of(intersection, union) if found else 0.0)
        return self.add(
            {
                "intersection": intersection,
                "union": union,
                "iou": iou,
                "no_target": no_target,
                "none_found": not found,
            }
        )

    def update_boxed(self, predicted: MaskArray | None, truth_xyxy: BoxXYXY) -> Row:
        """Measure one expression that has a true box (pixels) and no true mask."""
        box = None if predicted is None else mask_to_box_xyxy_px(predicted)
        iou = 0.0 if box is None else float(box_iou([box], [truth_xyxy])[0, 0])
        return self.add({"mask_box_iou": iou, "no_target": False, "none_found": predicted is None})

    def compute(self) -> dict[str, float]:
        """Return ``gIoU``, ``cIoU``, ``N-acc``, ``T-acc``, ``P@0.5`` … ``P@0.9``, and the figures of boxes, of things
        and of sureness.
        """
        figures: dict[str, float] = {}
        targets = [row for row in self.rows if not row["no_target"]]
        boxed = column((row for row in self.rows if "mask_box_iou" in row), "mask_box_iou")
        if len(boxed) < len(targets) or not boxed:
            masked = [row for row in self.rows if "mask_box_iou" not in row]
            put_mean(figures, "gIoU", column(masked, "iou"))
            put_ratio(figures, "cIoU", column(masked, "intersection"), column(masked, "union"))
        put_mean(figures, "N-acc", (row["none_found"] for row in self.rows if row["no_target"]))
        put_mean(figures, "T-acc", (not row["none_found"] for row in targets))
        for level in PRECISION_LEVELS:
            put_mean(figures, f"P@{level}", (row["iou"] > level for row in targets if "iou" in row))
        put_mean(figures, "mask-box Acc@0.5", (iou > 0.5 for iou in boxed))
        put_mean(figures, "mask-box mIoU", boxed)
        put_concepts(figures, self.rows)
        put_selective(figures, self.rows)
        return figures

    def details(self) -> dict[str, float]:
        """Return the chief figures of each group of questions, and F1 of things at the lowest IoU alone."""
        return crowded_f1(self.rows) | by_group(self, ("gIoU", "cIoU", "N-acc", "macro F1", "cgF1"))

    def left_out(self) -> dict[str, str]:
        """See Metric."""
        return concepts_left_out(self.rows) | selective_left_out(self.rows)

    def curve(self) -> dict[str, Any]:
        """See Metric."""
        return risk_coverage(self.rows)
