"""Scorers that count as u-LLaVA's first release does (``counting: as_released``)."""

from __future__ import annotations

from collections.abc import Mapping

from ullava.evaluation.metrics.referring_ullava_v1 import ReleasedBoxes, ReleasedMasks
from ullava.evaluation.scoring import RecScorer, ResScorer, Scorer


class UllavaV1Res(ResScorer):
    """Masks; what is missing leaves the sums."""

    kind = ReleasedMasks


class UllavaV1Rec(RecScorer):
    """Boxes; what is missing leaves the denominator."""

    kind = ReleasedBoxes


SCORERS_ULLAVA_V1: Mapping[str, type[Scorer]] = {"res": UllavaV1Res, "rec": UllavaV1Rec}
"""Task family -> scorer, where that is another than ours."""
