"""What ``ullava predict`` has written, read again: ``answer.json``, or ``answers.jsonl`` of a batch.

Everything is checked here, so that the writers of the formats need not: a record that is not ours is named by file,
line and field.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from ullava.errors import DataError, did_you_mean
from ullava.geometry import Rle, SegmentationError, mask_to_box_xyxy_px, rle_decode
from ullava.given_files import read_plain
from ullava.json_lines import numbered_lines, parse_line
from ullava.structures import BoxXYXY

ONE, BATCH, UNFINISHED = "answer.json", "answers.jsonl", "answers.jsonl.part"
_OBJECT_KEYS = (
    "phrase", "span", "plain_span", "group", "image", "score", "mask_score", "box_score", "box_xyxy_px", "mask",
)  # fmt: skip
_VIDEO_KEYS = ("video", "masks", "frame_presence", "frame_scores")
"""Those that an object of a video has beside."""

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_NO_TEXT_FAULT = "holds a null character, or half of a character"


@dataclass(frozen=True, slots=True)
class Found:
    """One object of an answer, as it was written.

    ``mask``: run-length code of [H, W] of the original image, None = none, or none with a pixel in it
    (``blank_mask`` tells); ``mask_box_xyxy_px``: its tight box; ``box_xyxy_px``: the box that the model gave; both in
    original pixels, half-open. ``image``: which image of the question, from 0. ``group``: objects of one phrase of the
    answer have the same one; None = not told. ``of_video``: it is a thing of a video, whose masks are through time and
    not read here.
    """

    phrase: str
    image: int
    score: float
    mask: Rle | None
    mask_box_xyxy_px: BoxXYXY | None
    box_xyxy_px: BoxXYXY | None
    size_hw: tuple[int, int] | None
    blank_mask: bool = False
    group: int | None = None
    of_video: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One answer: the question's name, its images as they were named then, what was asked, by which model."""

    id: str
    images: tuple[str, ...]
    prompt: str
    text: str
    model: str
    objects: tuple[Found, ...]
    where: str


def read_results(given: Path) -> list[Record]:
    """Read the folder that ``ullava predict`` wrote, or one of its files by name.

    Raises:
        DataError: nothing there, a batch that was not finished, or every record that is not an answer of ours, as
            ``file:line: field: ...``.
    """
    path = _results_file(given)
    problems: list[str] = []
    records: list[Record] = []
    seen: dict[str, str] = {}
    for where, value in _values(path, problems):
        try:
            record = _record(value, where)
        except DataError as error:
            problems += error.problems
            continue
        if record.id in seen:
            problems.append(f"{where}: id: '{record.id}' is already that of {seen[record.id]}")
        seen[record.id] = where
        records.append(record)
    if not records and not problems:
        problems.append(f"{path}: holds no answer")
    if problems:
        raise DataError(problems)
    return records


def _results_file(given: Path) -> Path:
    if not given.is_dir():
        return given  # a plain file, or refused by name when it is opened
    here = [name for name in (BATCH, ONE) if (given / name).exists()]
    if len(here) == 2:
        raise DataError(f"{given}: holds both {ONE} and {BATCH}; name the file that is meant")
    if here:
        return given / here[0]
    if (given / UNFINISHED).exists():
        raise DataError(
            f"{given}: the batch was not finished; give the same 'ullava predict' again, or name {given / UNFINISHED}"
        )
    raise DataError(f"{given}: neither {ONE} nor {BATCH} in this folder; 'ullava predict --out {given}' writes them")


def _values(path: Path, problems: list[str]) -> list[tuple[str, Any]]:
    """Return (where it stands, value) of each record; lines that are no JSON are noted."""
    content = read_plain(path, what="file of answers")
    if path.suffix == ".json":
        try:
            return [(str(path), parse_line(b" ".join(line for _, line in numbered_lines(content.split(b"\n")))))]
        except ValueError as error:
            problems.append(f"{path}: {error}")
            return []
    values: list[tuple[str, Any]] = []
    for number, line in numbered_lines(content.split(b"\n")):
        try:
            values.append((f"{path}:{number}", parse_line(line)))
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
    return values


def _record(value: Any, where: str) -> Record:
    """Return one record. Raises DataError with every field that is wrong."""
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: an answer is an object {{...}}, not {_told(value)}")
    problems: list[str] = []
    name, prompt, text = (_field(value, key, str, where, problems) for key in ("id", "prompt", "text"))
    images = _field(value, "images", list, where, problems)
    things = _field(value, "objects", list, where, problems)
    if not all(isinstance(image, str) and image and not _NO_TEXT.search(image) for image in images or ()):
        problems.append(f"{where}: images: expected file names")
    found: list[Found] = []
    for number, thing in enumerate(things or ()):
        try:
            found.append(_found(thing, len(images or ()), f"{where}: objects[{number}]"))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return Record(name, tuple(images), prompt, text, str(value.get("model", "")), tuple(found), where)


def _field(
    value: Mapping[str, Any], key: str, kind: type[str] | type[list[Any]], where: str, problems: list[str]
) -> Any:
    """Return ``value[key]`` of type ``kind``, or note what is wrong with it and return None."""
    if key not in value:
        near = did_you_mean(key, [str(name) for name in value])
        problems.append(f"{where}: {key} is missing{near if 'mean' in near else ''}")
        return None
    if not isinstance(value[key], kind):
        wanted = "text" if kind is str else "a list"
        problems.append(f"{where}: {key}: expected {wanted}, not {_told(value[key])}")
        return None
    if kind is str and _NO_TEXT.search(value[key]):
        problems.append(f"{where}: {key}: {_NO_TEXT_FAULT}")
    return value[key]


def _found(value: Any, images: int, where: str) -> Found:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: expected an object {{...}}, not {_told(value)}")
    of_video = "masks" in value
    known = (*_OBJECT_KEYS, *_VIDEO_KEYS) if of_video else _OBJECT_KEYS
    unknown = [key for key in value if key not in known]
    if unknown:
        raise DataError([f"{where}: unknown key '{key}'{did_you_mean(str(key), known)}" for key in unknown])
    phrase, place, score = value.get("phrase"), value.get("image", 0), value.get("score")
    if not isinstance(phrase, str):
        raise DataError(f"{where}: phrase: expected text, not {_told(phrase)}")
    if _NO_TEXT.search(phrase):
        raise DataError(f"{where}: phrase: {_NO_TEXT_FAULT}")
    if not of_video and (isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < images):
        raise DataError(f"{where}: image: expected the place of one of {images} images, from 0, not {_told(place)}")
    if not _is_number(score) or not 0 <= score <= 1:
        raise DataError(f"{where}: score: expected a number from 0 to 1, not {_told(score)}")
    group = value.get("group")
    if group is not None and (isinstance(group, bool) or not isinstance(group, int) or group < 0):
        raise DataError(f"{where}: group: expected a whole number from 0, or null, not {_told(group)}")
    if of_video:
        return Found(_one_line(phrase), 0, float(score), None, None, None, None, group=group, of_video=True)
    box = _box(value.get("box_xyxy_px"), where)
    mask, mask_box, size = _mask(value.get("mask"), where)
    blank = size is not None and mask is None
    return Found(_one_line(phrase), place, float(score), mask, mask_box, box, size, blank, group)


def _one_line(phrase: str) -> str:
    return " ".join(phrase.split()) or "object"


def _box(value: Any, where: str) -> BoxXYXY | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(_is_number(number) for number in value):
        raise DataError(f"{where}: box_xyxy_px: expected four numbers or null, not {_told(value)}")
    x0, y0, x1, y1 = (float(number) for number in value)
    if x0 > x1 or y0 > y1:
        raise DataError(f"{where}: box_xyxy_px: expected x0 <= x1 and y0 <= y1, not {_told(value)}")
    return x0, y0, x1, y1


def _mask(value: Any, where: str) -> tuple[Rle | None, BoxXYXY | None, tuple[int, int] | None]:
    """Return a mask's code (None without a pixel), its tight box and its [H, W]."""
    if value is None:
        return None, None, None
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: mask: expected a run-length code or null, not {_told(value)}")
    try:
        bitmap = rle_decode(value)
    except SegmentationError as error:
        raise DataError([f"{where}: mask: {problem}" for problem in error.problems]) from None
    box = mask_to_box_xyxy_px(bitmap)
    height, width = bitmap.shape
    code: Rle | None = None if box is None else {"size": [height, width], "counts": value["counts"]}
    return code, box, (height, width)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _told(value: Any) -> str:
    """Return a value as JSON, short enough for a line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."
