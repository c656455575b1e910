"""Stand-ins for a model: what they answer is made from the truth, so the figures are known beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ullava.errors import SampleError
from ullava.structures import Answer, GroundedObject, Region, Sample


class Perfect:
    """Answers with the truth and remembers how it was asked."""

    name = "perfect"

    def __init__(self) -> None:
        self.batches: list[list[Sample]] = []
        self.overrides: dict[str, object] = {}
        self.searched: list[Sample] = []

    def answer_samples(self, samples: Sequence[Sample], *, max_new_tokens: int, num_beams: int = 1) -> list[Answer]:
        self.batches.append(list(samples))
        self.searched += samples if num_beams == 3 else ()
        return [self.say(sample) for sample in samples]

    def teacher_forced(self, samples: Sequence[Sample]) -> list[Answer]:
        return self.answer_samples(samples, max_new_tokens=0)

    def surprise(self, samples: Sequence[Sample]) -> list[tuple[float, int]]:
        return [(0.5 * len(sample.turns[-1].answer), len(sample.turns[-1].answer)) for sample in samples]

    def say(self, sample: Sample) -> Answer:
        turn = sample.turns[0]
        return Answer(turn.answer, tuple(self.ground(sample, region) for region in turn.regions))

    def ground(self, sample: Sample, region: Region) -> GroundedObject:
        return GroundedObject(region.phrase, (0, 4), region.mask, region.box_xyxy_px, 0.9)

    @property
    def asked(self) -> list[str]:
        return [sample.name for batch in self.batches for sample in batch]


class Silent(Perfect):
    """Says nothing and grounds nothing."""

    name = "silent"

    def say(self, sample: Sample) -> Answer:
        return Answer("")


class Wobbly(Perfect):
    """Shifts every mask and box by an amount that depends on the sample's name alone."""

    name = "wobbly"

    def ground(self, sample: Sample, region: Region) -> GroundedObject:
        digest = hashlib.sha256(sample.name.encode()).digest()
        shift = digest[0] % 9
        mask = None if region.mask is None else np.roll(region.mask, shift, axis=1)
        box = region.box_xyxy_px
        moved = None if box is None else (box[0] + shift, box[1], box[2] + shift, box[3])
        return GroundedObject(region.phrase, (0, 4), mask, moved, 0.1 + digest[1] / 300)


class Breaking(Wobbly):
    """Stops with an error of ours after so many batches, as a killed run does."""

    name = "wobbly"

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def answer_samples(self, samples: Sequence[Sample], *, max_new_tokens: int, **generation: Any) -> list[Answer]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().answer_samples(samples, max_new_tokens=max_new_tokens, **generation)


class Picky(Perfect):
    """Cannot use the samples of certain images."""

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self.refused = refused

    def answer_samples(self, samples: Sequence[Sample], *, max_new_tokens: int, **generation: Any) -> list[Answer]:
        for sample in samples:
            if any(path.name in self.refused for path in sample.images):
                raise SampleError(sample.name, "the image cannot be read")
        return super().answer_samples(samples, max_new_tokens=max_new_tokens, **generation)


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's."""


class Crowded(Perfect):
    """Has memory for a few questions at a time."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def answer_samples(self, samples: Sequence[Sample], *, max_new_tokens: int, **generation: Any) -> list[Answer]:
        if len(samples) > self.most:
            raise OutOfMemoryError("out of memory")
        return super().answer_samples(samples, max_new_tokens=max_new_tokens, **generation)


def images_of(batch: Sequence[Sample]) -> list[Path]:
    """The images of a batch in order, neighbors that are equal taken together."""
    found: list[Path] = []
    for sample in batch:
        if not found or found[-1] != sample.images[0]:
            found.append(sample.images[0])
    return found
