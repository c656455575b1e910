"""Questions that are asked at once: read from a file or a command line, and looked at before a model is asked."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from ullava.data.annotations.file_names import find_from
from ullava.data.loading.encode import read_videos
from ullava.errors import DataError, SampleError, UserError, did_you_mean
from ullava.geometry.region_prompts import as_regions
from ullava.given_files import read_plain
from ullava.json_lines import numbered_lines, parse_line
from ullava.media.images import read_preview_rgb_u8
from ullava.media.video import check_video
from ullava.modeling.processing.region_rows import check_pointed
from ullava.structures import Clip, ImageArray, RegionPrompt, Sample, Turn
from ullava.text.tokens import IMAGE_MARKER, REGION_MARKER, RESERVED_TOKENS, VIDEO_MARKER, mark_places

KEYS = ("image", "video", "prompt", "regions", "id")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


class RowMaker(Protocol):
    """What makes rows of questions: a ``UllavaProcessor``."""

    video_frames: int
    region_grid: int | None

    def encode(self, sample: Sample, images: Sequence[ImageArray], **settings: Any) -> Any:
        """Return the row of a sample, or raise SampleError."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt on its images and videos (none: words only). ``id`` is a plain file name.

    ``regions``: what its ``<region>`` point at. ``where``: the file and line that it was read from, for messages.
    """

    id: str
    images: tuple[Path, ...]
    prompt: str
    videos: tuple[Path, ...] = ()
    where: str = ""
    regions: tuple[RegionPrompt, ...] = ()

    def sample(self) -> Sample:
        """Return it as a sample without an answer, a marker in front for every image and every video."""
        marked = mark_places(self.prompt, len(self.images), len(self.videos))
        clips = tuple(Clip(path) for path in self.videos)
        turns = (Turn(marked, "", prompts=self.regions),)
        return Sample(f"question/{self.id}", "questions", "vqa", self.images, turns, videos=clips)


def one_prompt(
    images: Sequence[Path], prompt: str, videos: Sequence[Path] = (), regions: tuple[RegionPrompt, ...] = ()
) -> list[Question]:
    """Return ``prompt`` as one question for each image and video (or one without any), named after the files.

    ``regions``: what its ``<region>`` point at.

    Raises:
        UserError: the prompt is empty or its markers do not fit; one line for each problem.
    """
    problems: list[str] = []
    questions: list[Question] = []
    used: set[str] = set()
    for number, path in enumerate([*images, *videos], start=1):
        image_files, video_files = ((path,), ()) if number <= len(images) else ((), (path,))
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-_")[:80]
        stem = stem or f"{'image' if image_files else 'video'}-{number}"
        name = stem if stem not in used else f"{stem}-{number}"
        used.add(name)
        problems += _prompt_problems(prompt, len(image_files), len(video_files), "--prompt")
        questions.append(Question(name, image_files, prompt, video_files, regions=regions))
    if not questions:
        problems += _prompt_problems(prompt, 0, 0, "--prompt")
        questions.append(Question("question", (), prompt, regions=regions))
    problems += _region_problems(prompt, regions, "--prompt")
    problems = list(dict.fromkeys(problems))
    if problems:
        raise UserError(problems)
    return questions


def read_questions(path: Path) -> list[Question]:
    """Read a JSONL file: ``{"image": FILE or [FILES] or null, "prompt": TEXT, "id": NAME}`` on each line.

    ``video`` may stand beside ``image`` or in its place; ``regions`` is a list of boxes [x1, y1, x2, y2] in pixels or
    of masks (ullava.geometry.region_prompts), one for each ``<region>`` of the prompt. Files are relative to the JSONL
    file's folder; without ``id`` a question is named by its line number. Blank lines are skipped.

    Raises:
        DataError: every problem at once, as ``file:line: ...``.
    """
    questions: list[Question] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for number, line in numbered_lines(read_plain(path).split(b"\n")):
        found = _parse_line(line, number, path, problems)
        if found is None:
            continue
        if found.id in seen:
            problems.append(f"{path}:{number}: id '{found.id}' is already that of line {seen[found.id]}")
        seen[found.id] = number
        questions.append(found)
    if not questions and not problems:
        problems.append(f"{path}: holds no question")
    if problems:
        raise DataError(problems)
    return questions


def check_images(questions: Sequence[Question], quiet: bool = False) -> dict[Path, tuple[int, int]]:
    """Decode every distinct image and look into every video, so that a broken one is found before the work begins.

    Returns the (height, width) of every image.

    Raises:
        DataError: one line for each file that is missing, unreadable, too large or of a format not allowed.
    """
    paths = {path: question.where for question in reversed(questions) for path in reversed(question.images)}
    problems: list[str] = []
    sizes: dict[Path, tuple[int, int]] = {}
    progress = tqdm(desc="checking images", unit="image", disable=quiet or len(paths) < 20, leave=False)
    with progress as bar:
        for path, where in reversed(paths.items()):
            try:
                sizes[path] = read_preview_rgb_u8(path, 1)[1]
            except UserError as error:
                problems.extend(_told_at(where, problem) for problem in error.problems)
            bar.update()
    for path, where in {path: question.where for question in questions for path in question.videos}.items():
        try:
            check_video(path)
        except UserError as error:
            problems.extend(_told_at(where, problem) for problem in error.problems)
    if problems:
        raise DataError(problems)
    return sizes


def check_rows(
    processor: RowMaker,
    questions: Sequence[Question],
    sizes: Mapping[Path, tuple[int, int]],
    overrides: Mapping[str, Any],
) -> None:
    """Make the row of every question, with blank images of the same sizes, before the model answers the first one.

    ``sizes``: of ``check_images``.

    Raises:
        DataError: one line for each question that the model cannot be asked, because it is too long, say.
    """
    problems: list[str] = []
    shown: list[tuple[int, int]] = []
    prepared: Any = None  # blank images of the same sizes are the same images: preprocessed once in a row
    for question in questions:
        sample = question.sample()
        before, shown = shown, [sizes[path] for path in question.images]
        prepared = prepared if shown == before else None
        blank = [np.zeros((*size, 3), np.uint8) for size in shown]
        try:
            check_pointed(sample, processor.region_grid)
            videos = read_videos(sample.videos, processor.video_frames, sample.name)
            row = processor.encode(
                sample, blank, prompt_only=True, prepared=prepared, videos=videos, overrides=overrides
            )
            prepared = row.images
        except SampleError as error:
            problems.append(_told_at(question.where, error.reason if question.where else str(error)))
        except UserError as error:
            problems.extend(_told_at(question.where, problem) for problem in error.problems)
    if problems:
        raise DataError(list(dict.fromkeys(problems)))


def _told_at(where: str, problem: str) -> str:
    return f"{where}: {problem}" if where else problem


def _parse_line(line: bytes, number: int, path: Path, problems: list[str]) -> Question | None:
    """Return the question of one line, or note what is wrong with it and return None."""
    where = f"{path}:{number}"
    try:
        value = parse_line(line)
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return None
    if not isinstance(value, dict):
        problems.append(f'{where}: a line must be an object like {{"image": "a.jpg", "prompt": "..."}}')
        return None
    before = len(problems)
    problems += [f"{where}: unknown key '{key}'{did_you_mean(key, KEYS)}" for key in value if key not in KEYS]
    images, videos = (_files(value, key, where, problems) for key in ("image", "video"))
    prompt = value.get("prompt")
    if "prompt" not in value:
        problems.append(f"{where}: prompt is missing")
    elif not isinstance(prompt, str):
        problems.append(f"{where}: prompt: expected text, not {json.dumps(prompt)[:60]}")
    else:
        problems += _prompt_problems(prompt, len(images), len(videos), f"{where}: prompt")
    regions = _regions(value, where, problems)
    if isinstance(prompt, str):
        problems += _region_problems(prompt, regions, f"{where}: prompt")
    name = value.get("id", f"{number:06d}")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not _SAFE_ID.fullmatch(name):
        problems.append(f"{where}: id: expected a plain file name (letters, digits, '.', '_', '-')")
    image_files, video_files = (_found(path.parent, items, where, problems) for items in (images, videos))
    absent = [(key, file) for key, files in (("image", image_files), ("video", video_files)) for file in files]
    problems += [f"{where}: {key}: no such file: {file}" for key, file in absent if not os.path.exists(file)]
    if len(problems) > before:
        return None
    return Question(str(name), image_files, str(prompt), video_files, where, regions)


def _regions(value: dict[str, Any], where: str, problems: list[str]) -> tuple[RegionPrompt, ...]:
    """Return what is under ``regions``, or note what is wrong with it."""
    try:
        return as_regions(value.get("regions", ()))
    except DataError as error:
        problems.append(f"{where}: {error}")
    return ()


def _files(value: dict[str, Any], key: str, where: str, problems: list[str]) -> list[str]:
    """Return the file names under ``key``, or note what is wrong with them."""
    named = value.get(key)
    files = [named] if isinstance(named, str) else [] if named is None else named
    if isinstance(files, list) and all(isinstance(item, str) and item for item in files):
        if any(_NO_TEXT.search(item) for item in files):
            problems.append(f"{where}: {key}: holds a null character, or half of a character")
            return []
        return files
    problems.append(f"{where}: {key}: expected a file name, a list of file names or null")
    return []


def _found(folder: Path, names: list[str], where: str, problems: list[str]) -> tuple[Path, ...]:
    """Return the files that the names mean, seen from ``folder``; note names that can mean none."""
    found: list[Path] = []
    for name in names:
        try:
            found.append(find_from(folder, name))
        except DataError as error:
            problems.append(f"{where}: {error}")
    return tuple(found)


def _prompt_problems(prompt: str, images: int, videos: int, where: str) -> list[str]:
    """Say what is wrong with a prompt for so many images and videos."""
    if not prompt.replace(IMAGE_MARKER, "").replace(VIDEO_MARKER, "").strip():
        return [f"{where}: is empty"]
    if _NO_TEXT.search(prompt):
        return [f"{where}: holds a null character, or half of a character"]
    problems = [f"{where}: holds the special token {token}" for token in RESERVED_TOKENS if token in prompt]
    for marker, wanted, things in ((IMAGE_MARKER, images, "images"), (VIDEO_MARKER, videos, "videos")):
        found = prompt.count(marker)
        if found not in (0, wanted):
            problems.append(f"{where}: has {found} {marker} markers for {wanted} {things} (give none, or one for each)")
    return problems


def _region_problems(prompt: str, regions: Sequence[RegionPrompt], where: str) -> list[str]:
    """Say where the prompt has another number of markers than regions; without regions ``<region>`` may be a word."""
    found = prompt.count(REGION_MARKER)
    if not regions or found == len(regions):
        return []
    return [f"{where}: has {found} {REGION_MARKER} markers for {len(regions)} regions"]
