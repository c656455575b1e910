"""Whether a thing is there: a mask head's object score, fitted to what an evaluation has measured.

A head learns presence from as many absent things as its recipe shows, and its score is right for those. Platt's scaling
(1999) fits ``scale * logit + shift`` to held-out questions, of which those about absent things and those about things
that are there weigh the same together, whatever their numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ullava.errors import DataError, UserError
from ullava.evaluation.metrics.selective import balanced_weights, calibration_error
from ullava.json_lines import numbered_lines, parse_line

LIMIT = 1e-6
"""Probabilities are written with six digits; those at the ends are taken for this one."""
STEPS = 200
PRECISE = 1e-9
RIDGE = 1e-4
"""Keeps the fit to separable scores finite."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Logits [n] of things being there, as the model said them, and whether they were, bool [n]."""

    logits: NDArray[np.float64]
    there: NDArray[np.bool_]

    def weights(self) -> NDArray[np.float64]:
        """How much each counts, [n]: absent things half of all, the others half."""
        return balanced_weights(self.there)


@dataclass(frozen=True, slots=True)
class Calibration:
    """``scale * logit + shift`` is a thing's logit of being there; above 0 it is."""

    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrated logits [n]."""
        return self.scale * logits + self.shift


def read_observed(predictions: Path, dataset: str | None = None) -> Observed:
    """Questions with and without a target, of ``predictions.jsonl`` that ``ullava eval`` wrote.

    ``dataset``: of this row of the evaluation alone. An answer that speaks of several things counts with the most
    likely one. Raises DataError for lines that are not ours, UserError without questions of both kinds.
    """
    logits: list[float] = []
    there: list[bool] = []
    problems: list[str] = []
    names: set[str] = set()
    try:
        with predictions.open("rb") as lines:
            for number, line in numbered_lines(lines):
                try:
                    record = parse_line(line)
                    scores = record["scores"]
                    names.add(record["dataset"])
                except (ValueError, KeyError, TypeError) as error:
                    problems.append(f"{predictions}:{number}: no answer of ullava eval ({error})")
                    continue
                if dataset not in (None, record["dataset"]) or "no_target" not in scores or not record.get("presence"):
                    continue
                most = min(max(max(record["presence"]), LIMIT), 1 - LIMIT)
                logits.append(float(np.log(most / (1 - most))))
                there.append(not scores["no_target"])
    except OSError as error:
        raise UserError(f"{predictions}: {error.strerror or error}") from error
    if problems:
        raise DataError(problems)
    if dataset is not None and dataset not in names:
        raise UserError(f"{predictions}: no answers about '{dataset}'; there are {', '.join(sorted(names)) or 'none'}")
    if len(set(there)) < 2:
        raise UserError(f"{predictions}: needs answers with 'presence' to questions about things that are there and "
                        f"about things that are not; found {sum(there)} and {len(there) - sum(there)}")  # fmt: skip
    return Observed(np.array(logits), np.array(there))


def fit(seen: Observed, keep: float | None = None) -> Calibration:
    """The most likely calibration; ``keep``: moved so that this share of the things that are there stays found.

    The score keeps its order: a fit that would turn it around is refused (UserError), the head has learned nothing.
    """
    weights = seen.weights()
    inputs = np.stack([seen.logits, np.ones_like(seen.logits)], axis=1)
    start = both = np.array([1.0, 0.0])

    def surprise(at: NDArray[np.float64]) -> float:
        logits = inputs @ at
        told = float((weights * (np.logaddexp(0.0, logits) - seen.there * logits)).sum())
        return told + 0.5 * RIDGE * float(((at - start) ** 2).sum())

    for _ in range(STEPS):  # Newton's method, each step shortened until it helps
        told = _probability(inputs @ both)
        slope = inputs.T @ (weights * (told - seen.there)) + RIDGE * (both - start)
        curve = (inputs * (weights * told * (1 - told))[:, None]).T @ inputs + RIDGE * np.eye(2)
        step = np.linalg.solve(curve, slope)
        while surprise(both - step) > surprise(both) and float(np.abs(step).max()) > PRECISE:
            step = step / 2
        both = both - step
        if float(np.abs(step).max()) <= PRECISE:
            break
    scale, shift = (float(value) for value in both)
    if scale <= 0:
        raise UserError("things that are there score no higher than things that are not: there is nothing to calibrate")
    if keep is not None:
        shift = -scale * float(np.quantile(seen.logits[seen.there], 1 - keep, method="lower")) + LIMIT
    return Calibration(round(scale, 6), round(shift, 6))


def judge(seen: Observed, calibration: Calibration) -> dict[str, float]:
    """N-acc, T-acc (percent, by presence alone), the area under the curve, and ECE in percent.

    ECE: ``ullava.evaluation.metrics.selective``.
    """
    logits = calibration(seen.logits)
    found = logits > 0
    return {
        "N-acc": 100 * float((~found[~seen.there]).mean()),
        "T-acc": 100 * float(found[seen.there].mean()),
        "AUC": 100 * _area(logits[seen.there], logits[~seen.there]),
        "ECE": 100 * calibration_error(_probability(logits), seen.there, seen.weights()),
    }


def _probability(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(logits, -40, 40)))


def _area(there: NDArray[np.float64], absent: NDArray[np.float64]) -> float:
    """How often a thing that is there scores above one that is not; half of the ties."""
    order = np.sort(absent)
    below, up_to = np.searchsorted(order, there, "left"), np.searchsorted(order, there, "right")
    return float((below + up_to).mean() / (2 * len(absent)))
