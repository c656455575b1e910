"""What a person asks: images and videos in any form, a question, and what was said before it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ullava.data.loading.encode import read_videos
from ullava.errors import UserError
from ullava.geometry.region_prompts import as_regions
from ullava.media.images import ImageLike, read_image_rgb_u8
from ullava.modeling.processing.sample_rules import question_sample
from ullava.structures import Answer, Clip, DetectedBoxes, ImageArray, Sample

VideoLike = str | Path | Clip
History = Sequence[tuple[str, str | Answer]]
"""Earlier questions with their answers."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What a dialogue is about: images uint8 [H, W, 3] and frames uint8 [T, H, W, 3] of videos, with their names."""

    paths: tuple[Path, ...]
    images: tuple[ImageArray, ...]
    clips: tuple[Clip, ...]
    videos: tuple[ImageArray, ...]
    boxes: tuple[DetectedBoxes | None, ...]

    def sample(self, prompt: str, history: History, regions: Any = ()) -> Sample:
        """Return ``prompt`` as a question about it, after ``history``; ``regions``: see ``question_sample``.

        Raises UserError for an empty question, and for regions that are none or do not fit the questions.
        """
        if not prompt.strip():
            raise UserError("the question is empty")
        said = [_pair(entry) for entry in history]
        made = question_sample(prompt, self.paths, videos=self.clips, history=said, regions=as_regions(regions))
        return replace(made, boxes=self.boxes)

    def named_by_content(self) -> Shown:
        """Return it with images called by what they show: rows of a batch that name the same image share it."""
        names = (Path(hashlib.sha256(pixels.tobytes()).hexdigest() + str(pixels.shape)) for pixels in self.images)
        return replace(self, paths=tuple(names))

    def told(self, answer: Answer) -> Answer:
        """Return an answer to a question about it, which knows its images then."""
        return replace(answer, images=self.images)


def read_shown(
    image: ImageLike | Sequence[ImageLike] | None,
    video: VideoLike | Sequence[VideoLike] | None,
    boxes: Sequence[DetectedBoxes | None],
    frames: int,
) -> Shown:
    """Read one item of a kind, several, or none. Raises UserError for what cannot be read."""
    given: list[Any] = _listed(image)
    paths = tuple(
        Path(item) if isinstance(item, str | os.PathLike) else Path(f"image-{place}")
        for place, item in enumerate(given)
    )
    images = tuple(read_image_rgb_u8(item) for item in given)
    clips = tuple(_to_clip(item) for item in _listed(video))
    return Shown(paths, images, clips, tuple(read_videos(clips, frames, "question")), tuple(boxes))


def _listed(given: Any) -> list[Any]:
    """One thing, several or none as a list."""
    if given is None:
        return []
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str | bytes | bytearray) else [given]


def _to_clip(video: VideoLike) -> Clip:
    if isinstance(video, Clip):
        return video
    if not isinstance(video, str | os.PathLike):
        raise UserError(f"a video is a path or a Clip, not {type(video).__name__}")
    return Clip(Path(video))


def _pair(entry: Any) -> tuple[str, str]:
    if not isinstance(entry, tuple | list) or len(entry) != 2:
        raise UserError("history is a list of pairs: a question and its answer")
    question, answer = entry[0], entry[1].text if isinstance(entry[1], Answer) else entry[1]
    if not isinstance(question, str) or not isinstance(answer, str):
        raise UserError("history: a question is a text, its answer a text or an Answer")
    return question, answer
