"""Referring expressions of clips as their authors publish them: ``meta_expressions.json`` beside folders of frames.

``{"videos": {name: {"frames": [name], "expressions": {id: {"exp", ...}}}}}``, frames without their suffix. What an
expression means is said by ``anno_id`` (keys of ``mask_dict.json``, each a list with a COCO run-length code or null
for every frame) in MeViS (https://github.com/henghuiding/MeViS) and ReVOS (https://github.com/cilinyan/ReVOS-api), and
by ``obj_id`` (a number in the palette images of ``Annotations``) in Refer-YouTube-VOS and in Ref-DAVIS17 as ReferFormer
(https://github.com/wjn922/ReferFormer) lays it out. Splits whose truth is kept on a server have neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ullava.data.annotations.file_names import find_below
from ullava.data.annotations.json_stream import JsonCursor
from ullava.data.converters.published.source import Converted, OriginalSource, Skipped, image_size_wh, row
from ullava.data.converters.published.video_masks import Palettes, masks_of_file
from ullava.errors import DataError, did_you_mean
from ullava.geometry import VideoMasks
from ullava.media.frame_folder import frame_files
from ullava.text.phrases import expression_fault

KINDS_OF_REVOS = {0: "referring", 1: "reasoning"}
"""``type_id`` of an expression; the authors' program averages over these two and leaves every other out."""

Read = Callable[[int], object]
Objects = dict[str, VideoMasks | None]
"""None: no frame shows it, so nothing tells its size."""


@dataclass(slots=True)
class Said:
    """One expression: its id, its words, what it means (None: not published), and what figures it belongs to."""

    id: str
    words: str
    objects: list[str] | None
    more: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what ``ReferVideoReader`` reads."""
        meant = {} if self.objects is None else {"objects": self.objects}
        return {"id": self.id, "expression": self.words, **meant, **self.more}


@dataclass(frozen=True, slots=True)
class Listed:
    """One clip of the file: its name, line, frames (without suffix), and its expressions as they stand there.

    ``names``: of objects, as only drawn clips have them.
    """

    name: str
    line: int
    frames: list[str]
    expressions: Mapping[str, Any]
    names: Mapping[str, Any]


def mevis_rows(source: OriginalSource, facts: dict[str, Any], on_read: Read) -> Converted:
    """Yield one ``refer_video`` record for each clip of MeViS."""
    yield from _of_mask_file(source, facts, on_read, lambda value, where: {})


def revos_rows(source: OriginalSource, facts: dict[str, Any], on_read: Read) -> Converted:
    """Yield one ``refer_video`` record for each clip of ReVOS; figures are averaged over the kinds of questions."""
    yield from _of_mask_file(source, facts, on_read, _kind_of_revos)


def ref_youtube_vos_rows(source: OriginalSource, facts: dict[str, Any], on_read: Read) -> Converted:
    """Yield one ``refer_video`` record for each clip of Refer-YouTube-VOS; frames without a mask image are open."""
    yield from _of_palettes(source, facts, on_read, annotators=False)


def ref_davis_rows(source: OriginalSource, facts: dict[str, Any], on_read: Read) -> Converted:
    """Yield one ``refer_video`` record for each clip of Ref-DAVIS17: the k-th expression of an object is annotator k's.

    Pixels of the void number count for neither side.
    """
    yield from _of_palettes(source, facts, on_read, annotators=True)


# ---------------------------------------------------------------- masks in one file
def _of_mask_file(
    source: OriginalSource,
    facts: dict[str, Any],
    on_read: Read,
    more: Callable[[Mapping[str, Any], str], dict[str, Any]],
) -> Converted:
    masks = None if source.companion is None else masks_of_file(source.other(), on_read)
    for clip in _clips(source, on_read):
        folder = _frames_folder(source, clip)
        if folder is None:
            yield Skipped(clip.name, "no folder of frames")
            continue
        said: list[Said] = []
        for number, value, where in _entries(source, clip):
            numbers = _anno_ids(source, value, where) if masks is not None else None
            for one in numbers or ():
                if masks is not None and one not in masks:
                    source.fail(f"{where}: anno_id {one} is not in {source.other()}{did_you_mean(one, masks)}")
            said.append(Said(number, _words(source, value, where), numbers, more(value, where)))
        wanted = dict.fromkeys(number for one in said for number in one.objects or ())
        objects = None if masks is None else {number: masks[number] for number in wanted}
        names = {number: clip.names[number] for number in wanted if number in clip.names}
        yield from _record(source, facts, clip, folder, said, objects, {"names": names} if names else {})


def _kind_of_revos(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = value.get("type_id")
    if not isinstance(kind, int) or isinstance(kind, bool):
        raise DataError(f"{where}: 'type_id' has to be a whole number, not {kind!r:.40}")
    name = KINDS_OF_REVOS.get(kind)
    return {"groups": [name], "average_over": name} if name else {"groups": [f"type {kind}"]}


# ---------------------------------------------------------------- masks in palette images
def _of_palettes(source: OriginalSource, facts: dict[str, Any], on_read: Read, annotators: bool) -> Converted:
    for clip in _clips(source, on_read):
        folder = _frames_folder(source, clip)
        if folder is None:
            yield Skipped(clip.name, "no folder of frames")
            continue
        said, seen = [], Counter[str]()
        for number, value, where in _entries(source, clip):
            meant = None if source.companion is None else [_obj_id(source, value, where)]
            more: dict[str, Any] = {}
            if annotators:
                about = meant or [_obj_id(source, value, where)]
                who = f"annotator {seen[about[0]]}"
                seen[about[0]] += 1
                more = {"groups": [who], "average_over": who}
            said.append(Said(number, _words(source, value, where), meant, more))
        if source.companion is None:
            yield from _record(source, facts, clip, folder, said, None, {})
            continue
        wanted = sorted({number for one in said for number in one.objects or ()}, key=int)
        images = Palettes(find_below(source.other(), clip.name), clip.frames)
        found = images.objects([int(number) for number in wanted], void=annotators)
        objects: Objects = dict(zip(wanted, found.objects, strict=True))
        missing = {number for number, masks in zip(wanted, found.objects, strict=True) if masks.is_absent}
        for one in said:
            if missing.intersection(one.objects or ()):
                yield Skipped(f"{clip.name}/{one.id}", "its object is in no mask image")
        kept = [one for one in said if not missing.intersection(one.objects or ())]
        void = {} if found.void is None else {"ignore": found.void.to_json()}
        yield from _record(source, facts, clip, folder, kept, objects, void)


def _obj_id(source: OriginalSource, value: Mapping[str, Any], where: str) -> str:
    given = value.get("obj_id")
    if isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    if not isinstance(given, str) or not given.isdecimal() or int(given) < 1:
        source.fail(f"{where}: 'obj_id' has to be a number from 1 on, not {given!r:.40}{_near('obj_id', value)}")
    return str(int(given))


# ---------------------------------------------------------------- the list of clips
def _clips(source: OriginalSource, on_read: Read) -> Iterator[Listed]:
    """Yield the clips of the file; DataError with file, line, clip and field for what is wrong."""
    with JsonCursor(source.annotations, on_read) as cursor:
        videos = False
        for key in cursor.members():
            if key != "videos":
                cursor.value()
                continue
            videos = True
            for name in cursor.members():
                line = cursor.line
                value, _ = cursor.value()
                yield _listed(source, name, line, value)
        cursor.finish()
    if not videos:
        source.fail("no 'videos' in this file")


def _listed(source: OriginalSource, name: str, line: int, value: Any) -> Listed:
    where = f"{source.annotations}:{line}: videos.{name}"
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: has to be an object, not {type(value).__name__}")
    for key in ("frames", "expressions"):
        if key not in value:
            raise DataError(f"{where}: no '{key}'{did_you_mean(key, map(str, value))}")
    frames, expressions = value["frames"], value["expressions"]
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, str) for frame in frames):
        raise DataError(f"{where}.frames: has to be a list of names, not {frames!r:.40}")
    if frames != sorted(set(frames)):
        raise DataError(f"{where}.frames: have to be in the order of their names, none of them twice")
    if not isinstance(expressions, Mapping):
        raise DataError(f"{where}.expressions: has to be an object, not {type(expressions).__name__}")
    names = value.get("names", {})
    if not isinstance(names, Mapping) or not all(isinstance(one, str) and one.strip() for one in names.values()):
        raise DataError(f"{where}.names: has to be an object of texts, not {names!r:.40}")
    return Listed(name, line, frames, expressions, names)


def _entries(source: OriginalSource, clip: Listed) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Yield id, entry and place of each expression."""
    for number, value in clip.expressions.items():
        where = f"{source.annotations}:{clip.line}: videos.{clip.name}.expressions.{number}"
        if not isinstance(value, Mapping):
            raise DataError(f"{where}: has to be an object, not {type(value).__name__}")
        yield number, value, where


def _words(source: OriginalSource, value: Mapping[str, Any], where: str) -> str:
    words = value.get("exp")
    if not isinstance(words, str):
        raise DataError(f"{where}: 'exp' has to be text, not {type(words).__name__}{_near('exp', value)}")
    return " ".join(words.split())


def _anno_ids(source: OriginalSource, value: Mapping[str, Any], where: str) -> list[str]:
    numbers = value.get("anno_id")
    if not isinstance(numbers, list) or not all(isinstance(one, int | str) and str(one) for one in numbers):
        raise DataError(f"{where}: 'anno_id' has to be a list of numbers, not {numbers!r:.40}{_near('anno_id', value)}")
    return [str(one) for one in numbers]


def _near(key: str, value: Mapping[str, Any]) -> str:
    return "" if key in value else did_you_mean(key, map(str, value))


# ---------------------------------------------------------------- records
def _frames_folder(source: OriginalSource, clip: Listed) -> Path | None:
    try:
        folder = find_below(source.root, source.image(clip.name), "videos")
    except DataError as error:
        raise DataError(f"{source.annotations}:{clip.line}: videos.{clip.name}: {error}") from error
    return folder if folder.is_dir() else None


def _record(
    source: OriginalSource,
    facts: dict[str, Any],
    clip: Listed,
    folder: Path,
    said: list[Said],
    objects: Objects | None,
    more: dict[str, Any],
) -> Converted:
    """Yield the record of a clip, and what of it was left out."""
    kept = []
    for one in said:
        fault = expression_fault(one.words)
        if fault:
            yield Skipped(f"{clip.name}/{one.id}", f"an expression that {fault}")
        else:
            kept.append(one)
    if not kept:
        yield Skipped(clip.name, "no expression")
        return
    files = _checked_frames(source, clip, folder)
    width, height = image_size_wh(files[0])
    facts["sentences"] = facts.get("sentences", 0) + len(kept)
    name = source.image(clip.name)
    about: dict[str, Any] = {
        "video": name,
        "name": clip.name,
        "frames": [file.name for file in files],
    }
    about |= {"height": height, "width": width, "expressions": [one.to_json() for one in kept]} | more
    if objects is not None:
        size_hw = height, width
        about["objects"] = {
            number: _fitting(source, clip, number, masks, size_hw).to_json() for number, masks in objects.items()
        }
    yield row(about, name, clip.line)


def _checked_frames(source: OriginalSource, clip: Listed, folder: Path) -> list[Path]:
    """Return the frames of the folder. Raises DataError where they are not those of the list."""
    files, listed = frame_files(folder), set(clip.frames)
    there = {file.stem for file in files}
    where = f"{source.annotations}:{clip.line}: videos.{clip.name}.frames"
    missing, more = sorted(listed - there), sorted(there - listed)
    if missing:
        raise DataError(f"{where}: {folder} has no '{missing[0]}'{did_you_mean(missing[0], there)}")
    if more:
        raise DataError(
            f"{where}: {folder} has {len(more)} frames that the list does not name, the first is '{more[0]}'; give the "
            "folder that was published with this list"
        )
    return files


def _fitting(
    source: OriginalSource, clip: Listed, number: str, masks: VideoMasks | None, size_hw: tuple[int, int]
) -> VideoMasks:
    """Return the masks of an object. Raises DataError where they are not those of the clip's frames."""
    if masks is None:
        return VideoMasks.absent(size_hw, len(clip.frames))
    if (masks.size_hw, len(masks)) != (size_hw, len(clip.frames)):
        told = f"{len(masks)} masks of {masks.size_hw[1]} x {masks.size_hw[0]} pixels"
        raise DataError(
            f"{source.annotations}:{clip.line}: videos.{clip.name}: object {number} has {told}, the clip "
            f"{len(clip.frames)} frames of {size_hw[1]} x {size_hw[0]}"
        )
    return masks
