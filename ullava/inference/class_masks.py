"""A model's masks of the boxes of an image, for ``ullava data pseudo-masks``: a second round after GrabCut.

That the thing is there, and where it ends, the boxes say; the model says which pixels inside are the likeliest. So the
model is given the answer and not asked whether it finds the thing, and a box of which its mask would cover too little
or too much takes as many of its likeliest pixels as ``PseudoSettings.fill`` and ``MOST`` say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ullava.data.pseudo.objects import ClassBoxes, pixels_of
from ullava.data.readers.templates import find_templates
from ullava.examples import NOTHING
from ullava.modeling.mask_cut import uncut
from ullava.structures import ImageArray, MaskArray, Region, Sample, Turn
from ullava.text.answers import grounded_answer

TEMPLATE = "UNION.json"
"""As questions about classes are worded in evaluation: the first of these."""
MOST = 0.9
"""No more than this share of a box is taken: of the objects in the boxes of COCO hardly one covers more."""
BATCH = 16
"""Questions about an image that are put at once."""


class Reads(Protocol):
    """The part of the predictor that this module needs."""

    model: Any
    processor: Any

    def read_given(self, samples: Sequence[Sample], overrides: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """Run the model over dialogues with given answers; the second of what it returns is the model's output."""
        ...


class ClassMasks:
    """Asks a model for each class of an image, and cuts what it finds to the boxes."""

    def __init__(self, predictor: Reads, fill: float) -> None:
        self.predictor = predictor
        self.fill = fill
        self.templates = find_templates(TEMPLATE, with_phrase=True)

    def __call__(self, path: Path, image: ImageArray, groups: Sequence[ClassBoxes]) -> list[MaskArray | None]:
        """Return the united masks [H, W] of each class inside its boxes."""
        found: list[MaskArray | None] = []
        for start in range(0, len(groups), BATCH):
            asked = groups[start : start + BATCH]
            for group, logits in zip(asked, self._logits(path, image, asked), strict=True):
                found.append(self._cut(logits, group))
        return found

    @torch.inference_mode()
    def _logits(self, path: Path, image: ImageArray, groups: Sequence[ClassBoxes]) -> list[NDArray[np.float32]]:
        """Return the logits [H, W] of each class's pixels, whatever the model thinks of its being there."""
        size = (image.shape[0], image.shape[1])
        samples = [self._sample(path, group.name, size) for group in groups]
        with uncut(self.predictor.model.config):
            _, output, _ = self.predictor.read_given(samples, NOTHING)
        rules = self.predictor.processor.masks
        return [
            rules.to_original(plane[None].float(), size)[0].cpu().numpy() for plane in output.seg.mask_logits_lowres
        ]

    def _sample(self, path: Path, name: str, size_hw: tuple[int, int]) -> Sample:
        """Return the question about a class with the answer of training; its mask stands for the one to be found."""
        region = Region(name, np.zeros(size_hw, dtype=np.bool_))
        turn = Turn(self.templates.fill(self.templates.first, name), grounded_answer((region,)), (region,))
        return Sample(str(path), "boxes", "res", (path,), (turn,))

    def _cut(self, logits: NDArray[np.float32], group: ClassBoxes) -> MaskArray:
        mask = np.zeros(logits.shape, dtype=np.bool_)
        for box in group.boxes:
            place = pixels_of(box, (logits.shape[0], logits.shape[1]))
            inside = logits[place]
            least, most = np.quantile(inside, (1 - self.fill, 1 - MOST))
            mask[place] |= inside > min(max(0.0, most), least)
        return mask
