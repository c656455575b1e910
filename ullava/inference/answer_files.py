"""The files of answers: the record of one, its overlays, and a folder of several."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ullava.atomic_write import whole_folder, write_whole
from ullava.geometry.region_prompts import region_to_json
from ullava.inference.export import answer_to_json, png_bytes
from ullava.inference.overlay_video import overlay_suffix, write_overlay_video
from ullava.inference.screen import screen_overlay
from ullava.media.images import ImageLike
from ullava.structures import Answer

if TYPE_CHECKING:
    from ullava.inference.batch import Question


def answer_record(question: Question, answer: Answer, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON record of one answer: the question, ``settings``, and what ``answer_to_json`` gives."""
    asked: dict[str, Any] = {"id": question.id, "images": [str(path) for path in question.images]}
    if question.videos:
        asked["videos"] = [str(path) for path in question.videos]
    asked["prompt"] = question.prompt
    if question.regions:
        asked["regions"] = [region_to_json(region) for region in question.regions]
    return {**asked, **settings, **answer_to_json(answer)}


def lines_of(records: Iterable[Mapping[str, Any]]) -> str:
    """Return records as the lines of an ``answers.jsonl``."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def write_overlays(
    images: Sequence[ImageLike], answer: Answer, folder: Path, stem: str, videos: Sequence[Path] = ()
) -> None:
    """Write ``<stem>.png`` for the first of the question's images, ``<stem>-2.png`` for the second, and so on.

    Of a video in which the answer masks something ``<stem>.mp4`` (.gif without PyAV), ``<stem>-2.mp4`` for the second.
    They are of a screen's size at most (``ullava.inference.screen``).
    """
    for number, image in enumerate(images):
        shown = [item for item in answer.objects if item.masks is None and item.image == number]
        write_whole(folder / _numbered(stem, number, ".png"), png_bytes(screen_overlay(image, shown)))
    for number, video in enumerate(videos):
        moving = [item for item in answer.objects if item.over_time is not None and item.over_time.video == number]
        if moving:
            write_overlay_video(video, moving, folder / _numbered(stem, number, overlay_suffix()))


def _numbered(stem: str, number: int, suffix: str) -> str:
    return f"{stem}{suffix}" if number == 0 else f"{stem}-{number + 1}{suffix}"


def write_answers(turns: Sequence[tuple[Question, Answer]], folder: Path, settings: Mapping[str, Any]) -> None:
    """Write answers into the new ``folder``, as ``answer_all`` writes those of a batch. Images are those they know."""
    with whole_folder(folder) as draft:
        (draft / "overlays").mkdir()
        for question, answer in turns:
            write_overlays(answer.images or question.images, answer, draft / "overlays", question.id, question.videos)
        write_whole(draft / "answers.jsonl", lines_of(answer_record(*turn, settings) for turn in turns))
