"""Captions with masks: the figures of grounded conversation generation (Rasheed et al., "GLaMM", 2311.03356).

As ``eval/gcg/evaluate.py`` of the authors' repository computes them. A phrase counts once: its masks are united.

``CIDEr``, ``METEOR (...)``  of the caption's words (``captions.py``, ``meteor.py``).
``AP50``  COCO's average precision of the masks at IoU 0.5, all of one class and of score 1.
``mIoU``  in each image phrases are paired one to one, the pair of the largest IoU first, while it is above 0; the mean
          IoU of the *pairs* (0 without any), then the mean over images. A phrase that has no partner does not lower it.
``mask recall (...)``  share of the true phrases that are found. In each image the pair of the largest IoU is taken; it
          is a hit if its IoU is 0.5 or more and its phrases are alike at 0.5 or more (``phrase_similarity``, which the
          figure's name tells), and the next one is looked for. The first pair that is no hit ends the search, which is
          the authors' way: a well-placed mask of another name hides what comes behind it.

Beyond the paper, where phrases have one right wording and several masks each:

``phrases right``   share of the true phrases that are said in the same words with as many masks, each of which has a
                    true one of its own with IoU 0.5 or more.
``captions right``  share of captions in which all are, and nothing else has a mask.

Where the truth has boxes and no masks, the same figures of filled boxes are called ``box AP50`` and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ullava.evaluation.metrics.caption_words import caption_words
from ullava.evaluation.metrics.captions import bleu, cider_d
from ullava.evaluation.metrics.concepts import paired
from ullava.evaluation.metrics.instances import InstanceMasks
from ullava.evaluation.metrics.meteor import STEMS, meteor_figures, why_no_meteor
from ullava.evaluation.metrics.rows import Metric, Row, column, put_mean, put_ratio
from ullava.geometry import mask_ious, rle_encode
from ullava.structures import MaskArray
from ullava.text.normalization import words

HIT_IOU = 0.5
ALIKE = 0.5
BOX = "box "
"""Before the names of figures of filled boxes."""


@dataclass(frozen=True, slots=True)
class GroundedPhrase:
    """The words of a phrase and the masks [H, W] of all that it speaks of, at least one."""

    words: str
    masks: tuple[MaskArray, ...]

    @property
    def united(self) -> MaskArray:
        """All of it as one mask."""
        united: MaskArray = np.logical_or.reduce(self.masks)
        return united


class GroundedCaptions(Metric):
    """Rows: ``caption``, ``references``, ``ious`` and ``similarity`` [true][said], ``alike_by``, ``right``, ``exact``,
    ``boxed`` and, for AP, ``truth`` and ``said`` (run lengths).
    """

    resamples: ClassVar[bool] = False

    def update(
        self,
        caption: str,
        references: Sequence[str],
        true: Sequence[GroundedPhrase],
        said: Sequence[GroundedPhrase],
        similarity: NDArray[np.float64],
        alike_by: str,
        boxed: bool = False,
    ) -> Row:
        """Keep one caption. ``similarity`` [true, said] of the phrases by the rule ``alike_by``; ``boxed``: the masks
        are filled boxes.

        Raises ValueError if there is no reference, or for masks of different sizes.
        """
        if not references:
            raise ValueError("a caption needs at least one reference")
        first, second = [phrase.united for phrase in true], [phrase.united for phrase in said]
        ious = mask_ious(first, second, None)
        right = sum(_same_words(true, said, ious))
        return self.add(
            {
                "caption": caption,
                "references": list(references),
                "ious": ious.tolist(),
                "similarity": similarity.tolist(),
                "alike_by": alike_by,
                "right": right,
                "exact": right == len(true) == len(said),
                "boxed": boxed,
                "truth": [rle_encode(mask) for mask in first],
                "said": [rle_encode(mask) for mask in second],
            }
        )

    def compute(self) -> dict[str, float]:
        """Return the figures of the module's docstring."""
        if not self.rows:
            return {}
        captions, references = self._tokens()
        scores = cider_d(captions, references)
        figures: dict[str, float] = {}
        put_mean(figures, "CIDEr", scores)
        figures["BLEU-4"] = 100.0 * bleu(captions, references)
        if not why_no_meteor():
            figures |= meteor_figures(captions, references)
        for prefix, boxed in (("", False), (BOX, True)):
            rows = [row for row in self.rows if row["boxed"] is boxed]
            if rows:
                _put_places(figures, prefix, rows)
        return figures

    def left_out(self) -> dict[str, str]:
        """Say why there is no METEOR, where there is none."""
        reason = why_no_meteor()
        return {STEMS: reason} if reason else {}

    def _tokens(self) -> tuple[list[list[str]], list[list[list[str]]]]:
        captions = [caption_words(row["caption"]) for row in self.rows]
        return captions, [[caption_words(text) for text in row["references"]] for row in self.rows]


def _put_places(figures: dict[str, float], prefix: str, rows: Sequence[Row]) -> None:
    precision = InstanceMasks(
        {
            "image": f"{number:09d}",
            "category": "phrase",
            "truth": row["truth"],
            "crowd": [False] * len(row["truth"]),
            "detections": [{"mask": rle, "score": 1.0} for rle in row["said"]],
        }
        for number, row in enumerate(rows)
    ).compute()
    if "AP50" in precision:
        figures[f"{prefix}AP50"] = precision["AP50"]
    put_mean(figures, f"{prefix}mIoU", [mean_of_pairs(np.asarray(row["ious"])) for row in rows])
    counts = [len(row["truth"]) for row in rows]
    for rule in dict.fromkeys(column(rows, "alike_by")):
        told = [row for row in rows if row["alike_by"] == rule]
        found = [len(hits(np.asarray(row["ious"]), np.asarray(row["similarity"]))) for row in told]
        name = f"{prefix or 'mask '}recall ({rule})"
        put_ratio(figures, name, found, [len(row["truth"]) for row in told])
    put_ratio(figures, f"{prefix}phrases right", column(rows, "right"), counts)
    put_mean(figures, f"{prefix}captions right", column(rows, "exact"))


def mean_of_pairs(ious: NDArray[np.float64]) -> float:
    """Return the mean IoU of an image's pairs: the largest of ``ious`` [true, said] first; 0 where none is above 0."""
    left, taken = ious.copy(), []
    while left.size and left.max() > 0:
        row, column_ = np.unravel_index(int(left.argmax()), left.shape)
        taken.append(float(left[row, column_]))
        left[row, :], left[:, column_] = 0.0, 0.0
    return sum(taken) / len(taken) if taken else 0.0


def hits(ious: NDArray[np.float64], similarity: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the pairs (true, said) of an image that are hits; both tables are [true, said]."""
    left, found = ious.copy(), list[tuple[int, int]]()
    while left.size:
        row, column_ = (int(place) for place in np.unravel_index(int(left.argmax()), left.shape))
        if left[row, column_] < HIT_IOU or similarity[row, column_] < ALIKE:
            break
        found.append((row, column_))
        left[row, :], left[:, column_] = 0.0, 0.0
    return found


def _same_words(
    true: Sequence[GroundedPhrase], said: Sequence[GroundedPhrase], ious: NDArray[np.float64]
) -> list[bool]:
    """Return for each true phrase whether it is said in its words with its masks; one that is said counts for one."""
    free = set(range(len(said)))
    found = []
    for row, phrase in enumerate(true):
        alike = [
            place
            for place in sorted(free, key=lambda place: -ious[row, place])
            if words(said[place].words) == words(phrase.words) and _all_met(phrase.masks, said[place].masks)
        ]
        free -= set(alike[:1])
        found.append(bool(alike))
    return found


def _all_met(true: Sequence[MaskArray], said: Sequence[MaskArray]) -> bool:
    """Whether each mask has one of the others to itself, of IoU ``HIT_IOU`` or more, and none is left over."""
    if len(true) != len(said):
        return False
    met: list[float] = paired(mask_ious(said, true, None))["matched"]
    return sum(iou >= HIT_IOU for iou in met) == len(true)
