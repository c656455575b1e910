"""Answers to expressions of clips that come from elsewhere: a function that follows things, or finished results.

Finished results are JSON lines ``{"clip", "expression_id", "objects": [{"masks": {"size", "counts"}}]}``, one for each
expression, or the folders that the servers of MeViS and Refer-YouTube-VOS take: ``<clip>/<expression>/<frame>.png``.
``predictions.jsonl`` of an evaluation is such a file.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ullava.errors import ConfigError, DataError, UserError, did_you_mean
from ullava.geometry import SegmentationError, VideoMasks
from ullava.given_files import open_plain
from ullava.json_lines import parse_line
from ullava.media.images import read_label_png
from ullava.structures import Answer, Clip, GroundedObject, MaskArray, MasksOverTime, Sample

Follow = Callable[[Clip, str], Sequence[VideoMasks]]
"""Clip and expression -> the masks of each thing that is meant; none where nothing is."""
MASK_SUFFIX = ".png"


class VideoAnswers(ABC):
    """Answers expressions of clips by masks; in the place of a Predictor. ``name`` says whose answers they are."""

    masks_in_videos = True

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def masks_of(self, sample: Sample) -> Sequence[VideoMasks]:
        """Return the masks of each thing that the one question of a sample means."""

    def answer_samples(self, samples: Sequence[Sample], *, max_new_tokens: int, **generation: Any) -> list[Answer]:
        """Answer single-turn samples in order; ``max_new_tokens`` means nothing, there are no words."""
        return [_answer(sample, self.masks_of(sample)) for sample in samples]

    def teacher_forced(self, samples: Sequence[Sample]) -> list[Answer]:
        """Refuse: there is no model that could be given words."""
        raise ConfigError(f"{self.name}: answers from elsewhere have the protocol generate, not teacher_forced")

    def surprise(self, samples: Sequence[Sample]) -> list[tuple[float, int]]:
        """Refuse, as ``teacher_forced``."""
        raise ConfigError(f"{self.name}: answers from elsewhere hold no likelihoods of words")


class FollowedAnswers(VideoAnswers):
    """What a function ``(clip, expression) -> masks`` says."""

    def __init__(self, follow: Follow, name: str) -> None:
        super().__init__(name)
        self._follow = follow

    def masks_of(self, sample: Sample) -> Sequence[VideoMasks]:
        """Call the function."""
        return self._follow(sample.videos[0], str(sample.truth["expression"]))


class StoredAnswers(VideoAnswers):
    """A file of JSON lines; a line is only parsed again when its question comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_plain(path, what="file of results") as file:
            self._places = _places(path, file)
        with path.open("rb") as content:
            super().__init__(f"results {hashlib.file_digest(content, 'sha256').hexdigest()[:20]}")

    def masks_of(self, sample: Sample) -> Sequence[VideoMasks]:
        """Return what the line of this clip and expression holds. Raises UserError naming line and object."""
        key = _key_of(sample)
        if key not in self._places:
            raise UserError(f"{self.path}: no answer to expression {key[1]} of clip {key[0]} ('{_words(sample)}')")
        number, start = self._places[key]
        with open_plain(self.path, what="file of results") as file:
            file.seek(start)
            record = parse_line(file.readline())
        return [
            _masks(thing, f"{self.path}:{number}: objects[{place}]", sample)
            for place, thing in enumerate(record["objects"])
        ]


class MaskFolders(VideoAnswers):
    """``<clip>/<expression>/<frame>.png`` below a folder: black, and white or any one other number, is the mask."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = sorted(
            (path.relative_to(folder).as_posix(), path.stat().st_size) for path in folder.rglob(f"*{MASK_SUFFIX}")
        )
        if not files:
            raise UserError(f"{folder}: holds no {MASK_SUFFIX} below <clip>/<expression>/")
        super().__init__(f"mask images {hashlib.sha256(repr(files).encode()).hexdigest()[:20]}")

    def masks_of(self, sample: Sample) -> Sequence[VideoMasks]:
        """Read the mask of each frame, as one object. Raises UserError naming the file."""
        clip, expression = _key_of(sample)
        place = self.folder / clip / expression
        if not place.is_dir():
            raise UserError(f"{place}: no such folder, for expression {expression} of clip {clip} ('{_words(sample)}')")
        size_hw = _size_of(sample)
        read = (_read_mask(place / f"{frame}{MASK_SUFFIX}", size_hw) for frame in sample.truth["frames"])
        masks = VideoMasks.from_masks(read, size_hw)
        return [] if masks.is_absent else [masks]


def finished_answers(path: Path) -> VideoAnswers:
    """Return finished results as answers: a file of JSON lines, or a folder of mask images. Raises UserError."""
    return MaskFolders(path) if path.is_dir() else StoredAnswers(path)


def filed_under(sample: Sample) -> dict[str, str]:
    """Return what the answer to an expression of a clip is filed under, as the lines of results have it."""
    return dict(zip(("clip", "expression_id"), _key_of(sample), strict=True))


def _answer(sample: Sample, found: Iterable[VideoMasks]) -> Answer:
    words = _words(sample)
    things = [
        GroundedObject(
            words, (0, 0), None, None, 1.0, over_time=MasksOverTime(masks, (1.0,) * len(masks), (1.0,) * len(masks))
        )
        for masks in found
    ]
    return Answer("", tuple(things))


def _words(sample: Sample) -> str:
    return str(sample.truth["expression"])


def _key_of(sample: Sample) -> tuple[str, str]:
    return str(sample.truth["video"]), str(sample.truth["expression_id"])


def _size_of(sample: Sample) -> tuple[int, int]:
    return int(sample.truth["height"]), int(sample.truth["width"])


# ---------------------------------------------------------------- JSON lines
def _places(path: Path, file: BinaryIO) -> dict[tuple[str, str], tuple[int, int]]:
    """Return (line, byte at which it starts) of the answer to each expression; DataError for every wrong line."""
    places: dict[tuple[str, str], tuple[int, int]] = {}
    problems: list[str] = []
    start = 0
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                key = _key_of_line(parse_line(line))
                if key in places:
                    raise ValueError(
                        f"expression {key[1]} of clip {key[0]} is answered in line {places[key][0]} already"
                    )
                places[key] = number, start
            except ValueError as error:
                problems.append(f"{path}:{number}: {error}")
        start += len(line)
    if problems:
        raise DataError(problems)
    return places


def _key_of_line(value: Any) -> tuple[str, str]:
    if not isinstance(value, dict):
        raise ValueError("a line of results is an object {...}")
    for key, kind in (("clip", str), ("expression_id", str), ("objects", list)):
        if not isinstance(value.get(key), kind):
            near = "" if key in value else did_you_mean(key, value)
            raise ValueError(f"'{key}' has to be {'text' if kind is str else 'a list'}{near}")
    return value["clip"], value["expression_id"]


def _masks(thing: Any, where: str, sample: Sample) -> VideoMasks:
    if not isinstance(thing, dict) or "masks" not in thing:
        raise UserError(f"{where}: has to be an object with 'masks'")
    try:
        masks = VideoMasks.from_json(thing["masks"])
    except SegmentationError as error:
        raise UserError(f"{where}: masks: {error}") from error
    frames, size_hw = len(sample.truth["frames"]), _size_of(sample)
    if (masks.size_hw, len(masks)) != (size_hw, frames):
        raise UserError(
            f"{where}: {len(masks)} masks of {masks.size_hw[1]} x {masks.size_hw[0]} pixels, the clip has {frames} "
            f"frames of {size_hw[1]} x {size_hw[0]}"
        )
    return masks


# ---------------------------------------------------------------- mask images
def _read_mask(path: Path, size_hw: tuple[int, int]) -> MaskArray:
    try:
        labels = read_label_png(path)
    except DataError as error:
        raise UserError(error.problems) from error
    if labels.shape != size_hw:
        raise UserError(
            f"{path}: has {labels.shape[1]} x {labels.shape[0]} pixels, the clip's frames {size_hw[1]} x {size_hw[0]}"
        )
    numbers = np.unique(labels)
    if len(numbers[numbers > 0]) > 1:
        raise UserError(f"{path}: holds {len(numbers)} gray values; a mask is black and one other")
    return labels > 0
