"""Finding and segmenting together: the figures of SAM 3's benchmark, for questions with any number of things, or none.

Of SA-Co (Carion et al., "SAM 3: Segment Anything with Concepts", 2511.16719; the formulas as ``sam3/eval/cgf1_eval.py``
computes them, without its small constants under the fractions). A question is one expression about one image. Things
of an answer whose score is below ``CONFIDENT`` do not count.

``IL_MCC``: Matthews' correlation (1975) of "the answer has a thing" with "the image has one", over all questions:

    (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN))

0 where the answers are all of one kind; not defined (and left out) where the questions are.

``pmF1``: F1 of the things of all questions that are about something, summed before dividing, the mean over IoU 0.50,
0.55 ... 0.95. Things said and true things are paired one to one so that the sum of their IoU is largest; at a level t
a pair of IoU t or more is a hit:

    2 hits / (things said + true things)

``cgF1`` = pmF1 x IL_MCC. ``macro F1``: the same F1 question by question, the mean over those about something and over
the levels, as PBench has it (Falcon Perception, 2603.27365, ``eval/metrics.py``); an answer without a thing is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ullava.evaluation.metrics.rows import Row, put_mean

CONFIDENT = 0.5
"""Least score of a thing that counts."""
IOU_LEVELS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
THINGS = "things"
"""Of a row: ``{"said": things of the answer, "true": things there, "matched": IoU of the pairs that can be hits}``.

Without ``matched`` where nothing says which pixels the true things have: such a row counts in ``IL_MCC`` alone.
"""
ONE_KIND = "every question is about something that is {}: nothing to tell apart"
NO_MASKS = "what is there has boxes and no masks"


def paired(ious: NDArray[np.float64]) -> Row:
    """The field ``THINGS`` of a row, of IoU [said, true] by pairs."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(ious, maximize=True)
    found = sorted((float(iou) for iou in ious[rows, columns] if iou >= IOU_LEVELS[0]), reverse=True)
    return {"said": ious.shape[0], "true": ious.shape[1], "matched": found}


def best_of(readings: Sequence[Row]) -> Row:
    """Of the fields ``THINGS`` of one answer against several annotators the one with the best F1, as SA-Co counts.

    Nothing said where nobody saw anything is perfect; of equal ones the first.
    """

    def quality(things: Row) -> float:
        whole = things["said"] + things["true"]
        return sum(iou >= level for iou in things["matched"] for level in IOU_LEVELS) / whole if whole else math.inf

    return max(readings, key=quality)


def put_concepts(figures: dict[str, float], rows: Iterable[Row]) -> None:
    """Write ``IL_MCC``, ``pmF1``, ``cgF1`` and ``macro F1`` of rows with ``THINGS``, in percent, where defined."""
    told = [row[THINGS] for row in rows if THINGS in row]
    about = [things for things in told if things["true"] and "matched" in things]
    if about:
        hits = np.array([[sum(iou >= level for iou in things["matched"]) for level in IOU_LEVELS] for things in about])
        wholes = np.array([things["said"] + things["true"] for things in about])
        put_mean(figures, "pmF1", (2 * hits.sum(axis=0) / wholes.sum()).tolist())
        put_mean(figures, "macro F1", (2 * hits / wholes[:, None]).mean(axis=1).tolist())
    if len({bool(things["true"]) for things in told}) == 2:
        figures["IL_MCC"] = 100.0 * _correlation(told)
        if about:
            figures["cgF1"] = figures["pmF1"] * figures["IL_MCC"] / 100.0 + 0.0  # never a minus before a zero


def crowded_f1(rows: Iterable[Row]) -> dict[str, float]:
    """``macro F1 at IoU 0.5`` of rows with ``THINGS``, in percent: what PBench reports of crowded scenes."""
    figures: dict[str, float] = {}
    about = [row[THINGS] for row in rows if THINGS in row and row[THINGS]["true"] and "matched" in row[THINGS]]
    put_mean(figures, "macro F1 at IoU 0.5", (2 * len(one["matched"]) / (one["said"] + one["true"]) for one in about))
    return figures


def concepts_left_out(rows: Iterable[Row]) -> dict[str, str]:
    """Why ``IL_MCC``, ``pmF1`` and ``cgF1`` are not there: name of the figure -> reason; empty where they are."""
    told = [row[THINGS] for row in rows if THINGS in row]
    kinds = {bool(things["true"]) for things in told}
    if len(kinds) == 1:
        reason = ONE_KIND.format("there" if kinds == {True} else "not there")
        return {"IL_MCC": reason, "cgF1": reason}
    if told and not any("matched" in things for things in told if things["true"]):
        return {"pmF1": NO_MASKS, "cgF1": NO_MASKS}
    return {}


def _correlation(told: Sequence[Row]) -> float:
    there = np.array([things["true"] > 0 for things in told])
    said = np.array([things["said"] > 0 for things in told])
    hit, right = int((there & said).sum()), int((~there & ~said).sum())
    wrong, missed = int((~there & said).sum()), int((there & ~said).sum())
    whole = (hit + wrong) * (hit + missed) * (right + wrong) * (right + missed)
    return (hit * right - wrong * missed) / math.sqrt(whole) if whole else 0.0
