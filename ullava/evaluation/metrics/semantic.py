"""Semantic segmentation by class prompts: every class that an image shows is asked for by name.

``mIoU``: intersections and unions summed over the data set for each class, then the mean over classes. A pixel may lie
in the masks of several classes; each mask is judged on its own. ``pixel_accuracy``: each labeled pixel of the asked
classes goes to the class with the highest-scoring mask over it; share of pixels that go to their own class.
Classes that an image does not show are not asked, so they cannot be found falsely: compare such figures only with
others of the same protocol.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ullava.evaluation.metrics.overlap import overlap
from ullava.evaluation.metrics.rows import Metric, Row, column, put_mean, put_ratio
from ullava.structures import MaskArray


@dataclass(frozen=True, slots=True)
class ClassAnswer:
    """One class of one image: the united mask of the answer [H, W] (None: none), its score, and the truth [H, W]."""

    name: str
    predicted: MaskArray | None
    score: float
    truth: MaskArray


class SemanticMasks(Metric):
    """Rows: ``class``, ``intersection``, ``union``, ``labeled`` and ``right`` (pixels)."""

    def update(self, answers: Sequence[ClassAnswer], ignore: MaskArray | None = None) -> list[Row]:
        """Measure all classes of one image together; pixels of ``ignore`` [H, W] count nowhere."""
        if not answers:
            return []
        winner = _winners(answers)
        rows = []
        for number, answer in enumerate(answers):
            intersection, union = overlap(answer.predicted, answer.truth, ignore)
            labeled = answer.truth if ignore is None else answer.truth & ~ignore
            rows.append(
                self.add(
                    {
                        "class": answer.name,
                        "intersection": intersection,
                        "union": union,
                        "labeled": int(np.count_nonzero(labeled)),
                        "right": int(np.count_nonzero(winner[labeled] == number)),
                    }
                )
            )
        return rows

    def compute(self) -> dict[str, float]:
        """Return ``mIoU`` and ``pixel_accuracy``."""
        figures: dict[str, float] = {}
        put_mean(figures, "mIoU", (value / 100.0 for value in self.details().values()))
        put_ratio(figures, "pixel_accuracy", column(self.rows, "right"), column(self.rows, "labeled"))
        return figures

    def details(self) -> dict[str, float]:
        """Return the IoU of each class, in percent, by name."""
        parts: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            parts[row["class"]].append(row)
        figures: dict[str, float] = {}
        for name in sorted(parts):
            union = math.fsum(column(parts[name], "union"))
            if union:
                figures[name] = 100.0 * math.fsum(column(parts[name], "intersection")) / union
        return figures


def _winners(answers: Sequence[ClassAnswer]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return for each pixel [H, W] the number of the answer whose mask wins it, -1 where there is none."""
    winner = np.full(answers[0].truth.shape, -1, dtype=np.int64)
    best = np.full(winner.shape, -np.inf)
    for number, answer in enumerate(answers):
        if answer.predicted is None:
            continue
        claims = answer.predicted & (answer.score > best)
        winner[claims] = number
        best[claims] = answer.score
    return winner
