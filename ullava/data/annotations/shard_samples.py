"""One sample of a shard, whichever the container: its record with the addresses of its files in the place of names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ullava.data.annotations.json_stream import Row
from ullava.data.annotations.text_lengths import VIDEO_KEYS
from ullava.errors import DataError

FILE_FIELDS = ("image_path", "image", "label_path")
"""The fields of records that name a file which a shard may hold."""
KEY_FIELD = "__key__"
"""Where a record from a shard keeps the key of its sample, by the name that WebDataset gives it."""
MAX_PROBLEMS = 20
_TO_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class ShardSample(NamedTuple):
    """A sample as it was found: ``files`` are addresses (ullava.shard_members) by the field that they belong to.

    A field of several files has a list.
    """

    key: str
    record: dict[str, Any]
    files: dict[str, str | list[str]]


class StoredFile(NamedTuple):
    """A file of a sample that is written: its field, its place in a list (None: the field is one file), name, content,
    kind."""

    field: str
    place: int | None
    name: str
    content: bytes
    suffix: str


class Problems(list[str]):
    """Lines of what is wrong with a set of shards; the most that are told at once ends the reading."""

    def add(self, problem: str) -> None:
        """Note a problem. Raises DataError with all of them where they are enough."""
        self.append(problem)
        if len(self) >= MAX_PROBLEMS:
            self.tell()

    def tell(self) -> None:
        """Raise DataError where there are any."""
        if self:
            raise DataError(self)


def row_of(sample: ShardSample, *, names_files: bool = False) -> Row:
    """Return what the store keeps of a sample: names of files become addresses, the image's own name is kept beside.

    ``names_files``: a field without a file in the shard may name one elsewhere. Raises DataError, without a place, for
    a record and files that do not belong together.
    """
    record, image = dict(sample.record), ""
    for field in FILE_FIELDS:
        named, stored = record.get(field), sample.files.get(field)
        if stored is None:
            if named is not None and not names_files:
                raise DataError(f"'{field}' names {_shown(named)}, but the sample holds no such file")
        elif (
            isinstance(stored, list)
            and named is not None
            and (not isinstance(named, list) or len(named) != len(stored))
        ):
            raise DataError(f"'{field}' names {_shown(named)}, but the sample holds a list of {len(stored)} files")
        elif isinstance(stored, str) and isinstance(named, list):
            raise DataError(f"'{field}' is a list of names, but the sample holds a single file for it")
        else:
            record[field] = stored
        if not image and field != "label_path":
            image = next((name for name in (named, stored) if isinstance(name, str)), "")
    refuse_videos(record)
    record[KEY_FIELD] = sample.key
    return Row(record_text(record).encode("utf-8"), image, 0)


def refuse_videos(record: Mapping[str, Any]) -> None:
    """Raise DataError, without a place, for a record that names a video."""
    videos = [key for key in VIDEO_KEYS if record.get(key) is not None]
    if videos:
        raise DataError(f"'{videos[0]}' names a video; shards hold images")


def record_text(record: Mapping[str, Any]) -> str:
    """Return a record as shards and their index hold it, in JSON without blanks."""
    return _TO_JSON.encode(record)


def _shown(named: Any) -> str:
    return f"{len(named)} files" if isinstance(named, list) else f"'{str(named)[:60]}'"
