"""Whether a model knows when it is right: calibration of what it says is there, and answering only where it is sure.

A row tells ``there``, how likely the answer holds it that the thing is in the image, in [0, 1]; ``no_target`` and
``none_found`` as the metrics of any number of targets; and how wrong the answer is: ``loss_of``.

``ECE`` (Naeini et al., 2015; Guo et al., 1706.04599): in ten bins of ``there``, how far its mean is from the share of
things that were there, weighed by the questions in the bin. Those about absent things and the others weigh the same
together, as in ``ullava calibrate``, so that the figure does not turn with how many of each a set has.

Risk and coverage (Geifman and El-Yaniv, 1705.08500): questions are ranked by ``sureness``, that is ``there`` of an
answer with a thing and 1 - ``there`` of one without; the risk at coverage k/n is the mean loss of the k surest ones.
``AURC`` (Geifman et al., 1805.08206) is its mean over k = 1 ... n. Questions of one sureness stand in no order: each
counts with the mean loss of them all.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ullava.evaluation.metrics.concepts import ONE_KIND
from ullava.evaluation.metrics.rows import Row, put_mean

BINS = 10
THERE = "there"
POINTS = 100
"""The curve is written at so many coverages, evenly spread, the last of them 1."""


def calibration_error(told: NDArray[np.float64], there: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
    """ECE as a fraction: probabilities, whether it was so, and weights that add up to 1, each [n]."""
    bins = np.minimum((told * BINS).astype(int), BINS - 1)
    apart = weights * (told - there)
    return math.fsum(abs(math.fsum(apart[bins == place])) for place in range(BINS))


def balanced_weights(there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How much each question counts, [n]: those about absent things half of all, the others half."""
    return np.asarray(np.where(there, 0.5 / max(there.sum(), 1), 0.5 / max((~there).sum(), 1)), dtype=np.float64)


def loss_of(row: Row) -> float:
    """How wrong an answer is, in [0, 1].

    1 - IoU of the masks (nothing said about something absent is 0), or of the masks' box where there is no true mask;
    of boxes as a set, 1 where they are not ``exact``.
    """
    if "exact" in row:
        return float(not row["exact"])
    return 1.0 - float(row["iou"] if "iou" in row else row["mask_box_iou"])


def sureness(row: Row) -> float:
    """How sure the answer is of itself, in [0, 1]."""
    return float(1.0 - row[THERE] if row["none_found"] else row[THERE])


def put_selective(figures: dict[str, float], rows: Iterable[Row]) -> None:
    """Write ``ECE`` (where questions of both kinds are) and ``AURC`` of rows with ``THERE``, in percent."""
    told = [row for row in rows if THERE in row]
    there = np.array([not row["no_target"] for row in told], dtype=bool)
    if there.any() and not there.all():
        said = np.array([row[THERE] for row in told], dtype=np.float64)
        figures["ECE"] = 100.0 * calibration_error(said, there, balanced_weights(there))
    put_mean(figures, "AURC", _risks([sureness(row) for row in told], [loss_of(row) for row in told]))


def selective_left_out(rows: Iterable[Row]) -> dict[str, str]:
    """Why ``ECE`` is not there: name of the figure -> reason; empty where it is."""
    kinds = {bool(row["no_target"]) for row in rows if THERE in row}
    return {"ECE": ONE_KIND.format("not there" if kinds == {True} else "there")} if len(kinds) == 1 else {}


def risk_coverage(rows: Iterable[Row]) -> dict[str, Any]:
    """The curve of rows with ``THERE``; empty without any.

    ``{"n", "coverage", "risk", "AURC", "least_AURC"}``: fractions; ``least_AURC`` is what the best possible order of
    the same answers would give.
    """
    told = [row for row in rows if THERE in row]
    if not told:
        return {}
    losses = [loss_of(row) for row in told]
    risks, least = _risks([sureness(row) for row in told], losses), _risks([-loss for loss in losses], losses)
    count = len(risks)
    taken = sorted({math.ceil(count * step / POINTS) for step in range(1, POINTS + 1)})
    return {
        "n": count,
        "coverage": [round(place / count, 6) for place in taken],
        "risk": [round(risks[place - 1], 6) for place in taken],
        "AURC": round(math.fsum(risks) / count, 6),
        "least_AURC": round(math.fsum(least) / count, 6),
    }


def _risks(order: Sequence[float], losses: Sequence[float]) -> list[float]:
    """The mean loss of the first k questions, k = 1 ... n, the largest of ``order`` first."""
    alike: dict[float, list[float]] = defaultdict(list)
    for place, loss in zip(order, losses, strict=True):
        alike[place].append(loss)
    ranked: list[float] = []
    for place in sorted(alike, reverse=True):
        group = alike[place]
        ranked += [math.fsum(group) / len(group)] * len(group)
    return [float(risk) for risk in np.cumsum(ranked) / np.arange(1, len(ranked) + 1)]
