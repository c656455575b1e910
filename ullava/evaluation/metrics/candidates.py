"""What a choice among candidates is worth: the model's own mask, the chosen one and the best there was, side by side.

A row of a question says under ``single`` and ``oracle`` what its ``intersection``, ``union`` and ``iou`` would have
been with the model's own mask and with the candidate of the highest IoU, ``others``: that another than its own was
chosen. Questions whose answer was left as it is have none of them; there all three are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ullava.evaluation.metrics.overlap import iou_of, overlap
from ullava.evaluation.metrics.rows import Row, column, put_mean, put_ratio
from ullava.structures import Answer, MaskArray

SINGLE, ORACLE, OTHERS = "single", "oracle", "others"
FIGURES = ("cIoU", "gIoU", "P@0.5")
CANDIDATE_FIGURES = (*(f"{which} {name}" for which in (SINGLE, ORACLE) for name in FIGURES), "other chosen")


def candidate_fields(answer: Answer, truth: MaskArray, ignore: MaskArray | None) -> Row:
    """Return what a row of a question says of candidates; nothing where the answer was left as it is."""
    told = [thing for thing in answer.objects if thing.alternatives and thing.image == 0]
    if len(told) != 1:
        return {}
    measured = []
    for one in told[0].alternatives:
        intersection, union = overlap(one.mask, truth, ignore)
        measured.append({"intersection": intersection, "union": union, "iou": iou_of(intersection, union)})
    return {
        SINGLE: measured[0],
        ORACLE: max(measured, key=lambda one: one["iou"]),
        OTHERS: told[0].provenance != told[0].alternatives[0].provenance,
    }


def has_candidates(rows: Iterable[Row]) -> bool:
    """Whether any of the rows was chosen from candidates."""
    return any(SINGLE in row for row in rows)


def candidate_figures(rows: Sequence[Row]) -> dict[str, float]:
    """Return ``CANDIDATE_FIGURES`` in percent; nothing for rows without candidates."""
    figures: dict[str, float] = {}
    if not has_candidates(rows):
        return figures
    for which in (SINGLE, ORACLE):
        seen = [row.get(which, row) for row in rows]
        put_ratio(figures, f"{which} cIoU", column(seen, "intersection"), column(seen, "union"))
        put_mean(figures, f"{which} gIoU", column(seen, "iou"))
        put_mean(figures, f"{which} P@0.5", (one["iou"] > 0.5 for one in seen))
    put_mean(figures, "other chosen", (row.get(OTHERS, False) for row in rows))
    return figures
