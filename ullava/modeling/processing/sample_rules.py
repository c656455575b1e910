"""What a sample has to keep to before it becomes a row, and what it wants from the heads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from ullava.errors import SampleError, UserError
from ullava.examples import ClipTarget
from ullava.geometry.region_prompts import shared_out
from ullava.media.frames import choose_frames
from ullava.orientation import missed_turn, wrong_size
from ullava.structures import GROUNDING_TASKS, Clip, ImageArray, RegionPrompt, Sample, Task, Turn
from ullava.text.tokens import (
    IGNORE_LABEL,
    IMAGE_MARKER,
    IMAGE_PATCH,
    LOC,
    REGION_MARKER,
    REGION_PATCH,
    RESERVED_TOKENS,
    SEG,
    VIDEO_MARKER,
    VIDEO_PATCH,
    is_whole,
    mark_places,
)

if TYPE_CHECKING:
    from ullava.geometry import VideoMasks


def question_sample(
    question: str,
    images: Sequence[Path],
    name: str = "question",
    videos: Sequence[Clip] = (),
    history: Sequence[tuple[str, str]] = (),
    regions: Sequence[RegionPrompt] = (),
) -> Sample:
    """A sample for a free question after ``history``, earlier questions with their answers.

    Images, then videos, come first in the first question unless one of the questions marks their places. ``regions``
    are those of the ``<region>`` of all questions, in order. Raises UserError where they do not number the same.
    """
    questions = [*(asked for asked, _ in history), question]
    placed = "".join(questions)
    unplaced = [0 if IMAGE_MARKER in placed else len(images), 0 if VIDEO_MARKER in placed else len(videos)]
    questions[0] = mark_places(questions[0], *unplaced)
    answers = [*(answer for _, answer in history), ""]
    task: Task = "res" if images else "vqa" if videos else "text"
    pointed = dealt_regions(questions, regions)
    turns = tuple(
        Turn(asked, answer, prompts=prompts) for asked, answer, prompts in zip(questions, answers, pointed, strict=True)
    )
    return Sample(name, "", task, tuple(images), turns, videos=tuple(videos))


def dealt_regions(questions: Sequence[str], regions: Sequence[RegionPrompt]) -> list[tuple[RegionPrompt, ...]]:
    """Share out regions over the questions by their ``<region>`` markers, in order; none without any.

    Raises UserError where markers and regions do not number the same.
    """
    if not regions:
        return [()] * len(questions)
    counts = [question.count(REGION_MARKER) for question in questions]
    if sum(counts) != len(regions):
        raise UserError(f"{sum(counts)} {REGION_MARKER} markers, {len(regions)} regions")
    return shared_out(counts, regions)


def asks_for_things(sample: Sample) -> bool:
    """Whether a sample's task is to point at things: the same before and after it is answered.

    A free question about an image may be one (``question_sample``), so it counts as one.
    """
    return sample.task in GROUNDING_TASKS or any(turn.regions for turn in sample.turns)


def validate_placeholders(sample: Sample, marker: str, things: str, given: int, named: int) -> None:
    """Compare the markers of one kind with the decoded items and with those that the sample names.

    Raises SampleError: they do not number the same, there is no question, or a question holds special tokens.
    """
    markers = sum(turn.question.count(marker) for turn in sample.turns)
    if markers != given or given != named:
        raise SampleError(sample.name, f"{markers} {marker} markers, {given} {things}")
    if not sample.turns:
        raise SampleError(sample.name, "no question")
    for turn in sample.turns:
        if not is_whole(turn.question + turn.answer):
            raise SampleError(sample.name, "its words hold half of a character")
        for token in RESERVED_TOKENS:
            if token in turn.question:
                raise SampleError(sample.name, f"the question holds the special token {token}")
            if token in turn.answer and token in (IMAGE_PATCH, VIDEO_PATCH, REGION_PATCH):
                raise SampleError(sample.name, f"the answer holds the special token {token}")


def check_phrases(sample: Sample, signs: Collection[str]) -> None:
    """Raise SampleError where what is asked for, or the name of a thing, holds one of the tokenizer's own ``signs``.

    Words of conversations may hold them: those only speak about text.
    """
    if not asks_for_things(sample):
        return
    for turn in sample.turns:
        for words in (turn.question, *(region.phrase for region in turn.regions)):
            sign = next((sign for sign in signs if sign in words), None)
            if sign is not None:
                raise SampleError(sample.name, f"'{words[:60]}' holds the tokenizer's special token {sign}")


def check_frame(sample: Sample, images: Sequence[ImageArray]) -> None:
    """Compare decoded images with what they have to be, and the last with the size that the annotation states.

    Raises SampleError: an array that is not uint8 [H, W, 3], or another size, which would put boxes in wrong places.
    """
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise SampleError(sample.name, f"an image is uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    stated = sample.truth.get("height"), sample.truth.get("width")
    if images and None not in stated and stated != images[-1].shape[:2]:
        size_hw = (images[-1].shape[0], images[-1].shape[1])
        raise SampleError(sample.name, wrong_size(sample.images[-1], size_hw, stated, "the record says"))


def check_counts(
    sample: Sample, labels: NDArray[np.int64], masks: int, boxes: int, token_ids: Mapping[str, int]
) -> None:
    """Raise SampleError where an answer is not supervised, or its grounding tokens are not as many as its targets."""
    if (labels != IGNORE_LABEL).sum() == 0:
        raise SampleError(sample.name, "no supervised token: every answer is empty")
    for token, key, targets, what in ((SEG, "seg_id", masks, "masks"), (LOC, "loc_id", boxes, "boxes")):
        found = int((labels == token_ids[key]).sum())
        if found != targets:
            raise SampleError(sample.name, f"{found} {token} in the answers, {targets} {what} in the annotation")


def clip_targets_of(sample: Sample, frames_hw: tuple[int, int], count: int) -> tuple[ClipTarget, ...]:
    """What the ``[SEG]`` of a row are taught in the ``count`` frames of its video that are seen, of size ``frames_hw``.

    The first of them that shows the thing is the one that the state prompts; if none does, the first that is annotated.
    Raises SampleError: masks of a video in a row of images or of several videos; masks of another size or number than
    the frames; none of the frames seen is annotated.
    """
    regions = [region for turn in sample.turns for region in turn.regions if region.video_masks is not None]
    if not regions:
        return ()
    if sample.images or len(sample.videos) != 1:
        shown = f"{len(sample.images)} images and {len(sample.videos)} videos"
        raise SampleError(sample.name, f"masks of a video are of a row with one video and no image, not {shown}")
    clip = sample.videos[0]
    made = []
    for region in regions:
        masks = cast("VideoMasks", region.video_masks)
        if len(masks) != clip.length:
            raise SampleError(sample.name, f"{clip.path}: masks of {len(masks)} frames, the clip says {clip.length}")
        if masks.size_hw != frames_hw:
            sizes = [f"{width}x{height}" for height, width in (masks.size_hw, frames_hw)]
            raise SampleError(sample.name, f"{clip.path}: masks of {sizes[0]} on frames of {sizes[1]} pixels")
        numbers = choose_frames(len(masks), count, clip.sampling, clip.seed)
        seen = {place: number for place, number in enumerate(numbers) if number not in masks.unannotated}
        if not seen:
            raise SampleError(sample.name, f"{clip.path}: none of the {count} frames that are seen is annotated")
        by_number = {number: masks.mask(number) for number in dict.fromkeys(seen.values())}
        found = {place: by_number[number] for place, number in seen.items()}
        made.append(ClipTarget(found, next((place for place, mask in found.items() if mask.any()), min(found)), count))
    return tuple(made)


def targets_of(
    sample: Sample, images: Sequence[ImageArray], prompt_only: bool
) -> tuple[tuple[NDArray[np.bool_], ...], list[tuple[float, float, float, float]]]:
    """Masks bool [H, W] and boxes (xyxy in original pixels) of all turns in order; none with ``prompt_only``.

    Raises SampleError for a mask of another size than the last image.
    """
    if prompt_only:
        return (), []
    regions = [region for turn in sample.turns for region in turn.regions]
    masks = tuple(region.mask for region in regions if region.mask is not None)
    for mask in masks:
        if not images or mask.shape != images[-1].shape[:2]:
            size = f"{images[-1].shape[1]}x{images[-1].shape[0]}" if images else "missing"
            reason = missed_turn(sample.images[-1], images[-1].shape[:2], mask.shape) if images else ""
            raise SampleError(
                sample.name, f"a mask of {mask.shape[1]}x{mask.shape[0]} on an image that is {size}{reason}"
            )
    return masks, [region.box_xyxy_px for region in regions if region.box_xyxy_px is not None]
