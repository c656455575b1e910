"""Referring video object segmentation: one expression, the masks of all that it means through a clip.

``J`` is the region's IoU in a frame, ``F`` the boundary measure (``boundaries.py``); of an expression their means over
the frames that the truth annotates, of a data set the means over its expressions, and ``J&F`` the mean of the two. A
frame where neither truth nor answer has a pixel counts 1. Recall is the share of frames above 0.5, decay the mean of
the first quarter of the frames less that of the last (DAVIS). ``N-acc`` and ``T-acc`` as of images: expressions that
mean nothing in the clip and are answered without a mask, and the others that are answered with one.

Where rows say what they are averaged over (``class``: the annotator of Ref-DAVIS17, the kind of question of ReVOS),
``J`` and ``F`` are means of the means of each; a row that says nothing is then in neither.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ullava.evaluation.metrics.boundaries import boundary_f
from ullava.evaluation.metrics.overlap import iou_of, overlap
from ullava.evaluation.metrics.rows import CLASS, Metric, Row, by_group, put_mean
from ullava.geometry import VideoMasks
from ullava.structures import MaskArray

RECALL_ABOVE = 0.5
_QUARTERS = 4
_PARTS = ("", " recall", " decay")


class VideoReferringMasks(Metric):
    """Rows: ``J``, ``F`` and of each ``recall`` and ``decay``, in [0, 1] (decay: [-1, 1]); ``frames``, how many were
    judged; ``no_target`` (truth), ``none_found`` (answer). ``unpublished`` alone: nobody but a server can judge it.
    """

    def update(self, predicted: VideoMasks | None, truth: VideoMasks, ignore: VideoMasks | None = None) -> Row:
        """Measure one expression: the united masks of the answer (None: no mask) against the united truth.

        Pixels of ``ignore`` count nowhere. Raises ValueError for other frames or another size, or where the truth
        annotates no frame.
        """
        for other in (predicted, ignore):
            if other is not None and (other.size_hw, len(other)) != (truth.size_hw, len(truth)):
                raise ValueError(
                    f"{len(other)} frames of {other.size_hw[1]} x {other.size_hw[0]} pixels against "
                    f"{len(truth)} of {truth.size_hw[1]} x {truth.size_hw[0]}"
                )
        seen = [frame for frame in range(len(truth)) if frame not in truth.unannotated]
        if not seen:
            raise ValueError("no frame of the truth is annotated")
        pairs = [_of_frame(predicted, truth, ignore, frame) for frame in seen]
        row: Row = {"frames": len(seen), "no_target": truth.is_absent}
        row["none_found"] = predicted is None or predicted.is_absent
        for name, values in (("J", [j for j, _ in pairs]), ("F", [f for _, f in pairs])):
            for part, value in zip(_PARTS, statistics(values), strict=True):
                row[f"{name}{part}"] = value
        return self.add(row)

    def update_unpublished(self) -> Row:
        """Keep an expression whose truth is not published."""
        return self.add({"unpublished": True})

    def left_out(self) -> dict[str, str]:
        """See Metric."""
        count = sum("unpublished" in row for row in self.rows)
        return {"J&F": f"the truth of {count} expressions is not published"} if count else {}

    def compute(self) -> dict[str, float]:
        """Return ``J&F``, ``J``, ``F``, recall and decay of both, ``N-acc`` and ``T-acc``."""
        figures: dict[str, float] = {}
        rows = [row for row in self.rows if "unpublished" not in row]
        means = {f"{name}{part}": _mean(rows, f"{name}{part}") for name in ("J", "F") for part in _PARTS}
        if means["J"] is not None and means["F"] is not None:
            figures["J&F"] = 100 * (means["J"] + means["F"]) / 2
        figures |= {name: 100 * value for name, value in means.items() if value is not None}
        put_mean(figures, "N-acc", (row["none_found"] for row in rows if row["no_target"]))
        put_mean(figures, "T-acc", (not row["none_found"] for row in rows if not row["no_target"]))
        return figures

    def details(self) -> dict[str, float]:
        """Return the chief figures of each group of questions."""
        return by_group(self, ("J&F", "J", "F", "N-acc", "T-acc"))


def region_j(predicted: MaskArray | None, truth: MaskArray | None) -> float:
    """Return the IoU of two masks [H, W] of one frame; None is a mask without a pixel, and two of them agree: 1."""
    return iou_of(*overlap(predicted, truth))


def statistics(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, recall and decay of the values of consecutive frames, at least one (DAVIS 2017).

    Decay: the frames are cut into four parts at round(1 + i (n - 1) / 4), and both parts have the frame of the cut.
    """
    count = len(values)
    cuts = np.round(np.linspace(1, count, _QUARTERS + 1) + 1e-10).astype(np.int64) - 1
    first, last = values[cuts[0] : cuts[1] + 1], values[cuts[-2] : cuts[-1] + 1]
    recall = sum(value > RECALL_ABOVE for value in values) / count
    return _average(values), recall, _average(first) - _average(last)


def _of_frame(
    predicted: VideoMasks | None, truth: VideoMasks, ignore: VideoMasks | None, frame: int
) -> tuple[float, float]:
    true = truth.mask(frame)
    said = np.zeros_like(true) if predicted is None else predicted.mask(frame)
    if ignore is not None and ignore.counts[frame] is not None:
        counted = ~ignore.mask(frame)
        true, said = true & counted, said & counted
    return region_j(said, true), boundary_f(said, true)


def _average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _mean(rows: Sequence[Row], name: str) -> float | None:
    """Return the mean of a field over the rows, or over what they are averaged over; None where there is no row."""
    if not rows:
        return None
    parts: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if CLASS in row:
            parts[row[CLASS]].append(row[name])
    if not parts:
        return _average([row[name] for row in rows])
    return _average([_average(values) for values in parts.values()])
