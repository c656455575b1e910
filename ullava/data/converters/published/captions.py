"""COCO's captions file: ``{"images": [{id, file_name}], "annotations": [{image_id, caption}]}``, five of a photo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ullava.data.annotations.json_stream import JsonRecord, iter_object_lists
from ullava.data.converters.published.source import MAX_PROBLEMS, Converted, OriginalSource, Skipped, row
from ullava.errors import DataError, did_you_mean

QUESTION = "<image>\nDescribe the image."
"""What a record asks where no template takes its place."""


class _Reading:
    """What the file holds so far: file name and line of each image, and its captions, in the file's order."""

    def __init__(self, source: OriginalSource) -> None:
        self.source = source
        self.images: dict[int, tuple[str, int]] = {}
        self.captions: dict[int, list[str]] = {}
        self.first_line: dict[int, int] = {}
        self.problems: list[str] = []

    def add(self, key: str, record: JsonRecord) -> None:
        number = self.field(key, record, "id" if key == "images" else "image_id", int)
        text = self.field(key, record, "file_name" if key == "images" else "caption", str)
        if number is None or text is None:
            return
        if key == "annotations":
            self.captions.setdefault(number, []).append(" ".join(text.split()))
            self.first_line.setdefault(number, record.line)
        elif number in self.images:
            self.problem(key, record, f"id {number} is there twice")
        else:
            self.images[number] = (text, record.line)

    def field(self, key: str, record: JsonRecord, name: str, kind: type) -> Any:
        value = record.value.get(name)
        if name not in record.value:
            self.problem(key, record, f"no '{name}'{did_you_mean(name, record.value)}")
        elif not isinstance(value, kind) or isinstance(value, bool):
            self.problem(key, record, f"'{name}' has to be {kind.__name__}, not {type(value).__name__}")
        elif value == "" or (isinstance(value, str) and not value.strip()):
            self.problem(key, record, f"'{name}' is blank")
        else:
            return value
        return None

    def problem(self, key: str, record: JsonRecord, reason: str) -> None:
        self.problems.append(f"{self.source.annotations}:{record.line}: {key}[{record.number}]: {reason}")
        if len(self.problems) >= MAX_PROBLEMS:
            raise DataError(self.problems)


def coco_captions_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``llava_json`` record for each image: its first caption as the answer, all of them as ``references``.

    Images without a caption are left out and named. Raises DataError for wrong entries and captions of no image.
    """
    reading = _Reading(source)
    for key, record in iter_object_lists(source.annotations, ("images", "annotations"), on_read):
        reading.add(key, record)
    for number in reading.captions.keys() - reading.images.keys():
        where = f"{source.annotations}:{reading.first_line[number]}"
        reading.problems.append(f"{where}: no image has the id {number}")
    if reading.problems:
        raise DataError(sorted(reading.problems)[:MAX_PROBLEMS])
    facts["sentences"] = sum(map(len, reading.captions.values()))
    for number, (name, line) in reading.images.items():
        captions = reading.captions.get(number)
        if not captions:
            yield Skipped(name, "no caption")
            continue
        turns = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": captions[0]}]
        shown = source.image(name)
        made = {"id": str(number), "image": shown, "conversations": turns, "references": captions}
        yield row(made, shown, line)
