"""A model's own masks of the classes of an image, for ``ullava data pseudo-masks``: a second round after GrabCut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ullava.data.pseudo.objects import ClassBoxes
from ullava.data.readers.templates import find_templates
from ullava.structures import Answer, ImageArray, MaskArray, Sample, Turn

TEMPLATE = "UNION.json"
"""As questions about classes are worded in evaluation: the first of these."""
MAX_NEW_TOKENS = 64
"""A question about one class is answered in one clause."""


class Answerer(Protocol):
    """The part of the predictor that this module needs."""

    def answer_samples(self, samples: Sequence[Sample], *, max_new_tokens: int) -> list[Answer]:
        """Answer single-turn samples in one batch."""
        ...


class ClassMasks:
    """Asks a model for each class of an image; what it finds is cut to the boxes by whoever asks."""

    def __init__(self, predictor: Answerer) -> None:
        self.predictor = predictor
        self.templates = find_templates(TEMPLATE, with_phrase=True)

    def __call__(self, path: Path, image: ImageArray, groups: Sequence[ClassBoxes]) -> list[MaskArray | None]:
        """Return the united masks [H, W] of each class; None where the answer has none."""
        samples = [
            Sample(str(path), "boxes", "res", (path,), (Turn(self.templates.fill(self.templates.first, g.name), ""),))
            for g in groups
        ]
        return [_united(answer) for answer in self.predictor.answer_samples(samples, max_new_tokens=MAX_NEW_TOKENS)]


def _united(answer: Answer) -> MaskArray | None:
    masks = [thing.mask for thing in answer.objects if thing.mask is not None]
    return np.logical_or.reduce(masks) if masks else None
