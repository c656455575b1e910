"""Tar shards in the form of WebDataset: members that share a key are a sample, ``KEY.json`` is its record.

A key is the path up to the first dot of the file's name. ``KEY.jpg`` (or another image) is the image that the layout
asks for, ``KEY.FIELD.png`` the file of another field of the record, ``KEY.FIELD.N.jpg`` entry N of a list.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from ullava.data.annotations.json_stream import MAX_RECORD_CHARS, parse_record_text
from ullava.data.annotations.shard_samples import FILE_FIELDS, Problems, ShardSample
from ullava.errors import DataError, did_you_mean
from ullava.given_files import open_plain
from ullava.shard_members import address

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif")
RECORD_SUFFIX = "json"
_NUMBERED = re.compile(r"([a-z_]+)\.(\d+)")


class _Members:
    """The members of one sample while they are read."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.record: bytes | None = None
        self.files: dict[str, str] = {}
        self.faults: list[str] = []

    def sample(self) -> ShardSample:
        """Return the sample; DataError, without a place, with all that is wrong with it."""
        faults = list(self.faults)
        record = {}
        if self.record is None:
            faults.append(f"no {self.key}.{RECORD_SUFFIX}: a sample has a record")
        else:
            try:
                record = parse_record_text(self.record.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                faults.append(f"{self.key}.{RECORD_SUFFIX}: not UTF-8 text near byte {error.start}")
            except DataError as error:
                faults.append(f"{self.key}.{RECORD_SUFFIX}: {error}")
        files: dict[str, str | list[str]] = {}
        for field in FILE_FIELDS:
            listed = sorted((name for name in self.files if name.startswith(f"{field}.")), key=_place_in_list)
            if listed and (field in self.files or [_place_in_list(name) for name in listed] != [*range(len(listed))]):
                faults.append(f"{field}: the files of a list are {field}.0, {field}.1, ... without a gap")
            elif listed:
                files[field] = [self.files[name] for name in listed]
            elif field in self.files:
                files[field] = self.files[field]
        if faults:
            raise DataError(faults)
        return ShardSample(self.key, record, files)


def tar_samples(
    shard: Path, name: str, image_field: str, problems: Problems, on_read: Callable[[int], object]
) -> Iterator[ShardSample]:
    """Yield the samples of one tar file in its order; ``name`` is its path below the folder of the shards.

    ``image_field``: which field of a record ``KEY.jpg`` belongs to. What is wrong is added to ``problems``, by shard
    and key. ``on_read`` is told how many bytes were gone over.
    """
    seen: set[str] = set()
    current: _Members | None = None
    with open_plain(shard, what="shard") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                before = 0
                for info in tar:
                    on_read(info.offset_data - before)
                    before = info.offset_data
                    if info.isdir():
                        continue
                    key, suffix = _key_and_suffix(info.name)
                    if current is None or current.key != key:
                        yield from _finished(current, shard, problems)
                        if key in seen:
                            problems.add(f"{shard}: sample {key}: the key is there twice, or its members lie apart")
                        seen.add(key)
                        current = _Members(key)
                    _take(current, info, suffix, name, image_field, tar)
                    cast(Any, tar).members = []  # tarfile would keep every header that it has read
                yield from _finished(current, shard, problems)
                _check_end(shard, file, tar.offset, problems)
        except (tarfile.TarError, EOFError) as error:
            last = f" (after sample {current.key})" if current is not None else ""
            problems.add(f"{shard}: not a tar file, or cut off{last}: {error}")


def _key_and_suffix(member: str) -> tuple[str, str]:
    """Split ``a/b.label_path.png`` into ``a/b`` and ``label_path.png``."""
    folder, slash, name = member.removeprefix("./").rpartition("/")
    stem, _, suffix = name.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def _finished(members: _Members | None, shard: Path, problems: Problems) -> Iterator[ShardSample]:
    if members is None:
        return
    try:
        yield members.sample()
    except DataError as error:
        for fault in error.problems:
            problems.add(f"{shard}: sample {members.key}: {fault}")


def _take(
    members: _Members, info: tarfile.TarInfo, suffix: str, shard: str, image_field: str, tar: tarfile.TarFile
) -> None:
    """Put one member where it belongs."""
    if not info.isreg() or info.sparse is not None:
        members.faults.append(f"{info.name}: not a plain file")
        return
    if suffix == RECORD_SUFFIX:
        if members.record is not None:
            members.faults.append(f"{info.name} is there twice")
        if info.size > MAX_RECORD_CHARS:
            members.faults.append(f"{info.name}: a record of {info.size} bytes is above the cap of {MAX_RECORD_CHARS}")
            return
        content = tar.extractfile(info)
        members.record = content.read() if content is not None else b""
        return
    field, _, kind = suffix.rpartition(".")
    numbered = _NUMBERED.fullmatch(field)
    owner = numbered[1] if numbered else field
    if kind not in IMAGE_SUFFIXES or (owner and owner not in FILE_FIELDS):
        known = (RECORD_SUFFIX, *IMAGE_SUFFIXES, *(f"{name}.png" for name in FILE_FIELDS))
        members.faults.append(f"{info.name}: no member of a sample ends so{did_you_mean(suffix, known)}")
        return
    field = field or image_field
    if field in members.files:
        members.faults.append(f"{info.name}: there are two files for '{field}'")
        return
    file_name = info.name.rpartition("/")[2]
    members.files[field] = address(shard, info.offset_data, info.size, file_name)


def _place_in_list(field: str) -> int:
    return int(field.rpartition(".")[2])


def _check_end(shard: Path, file: BinaryIO, offset: int, problems: Problems) -> None:
    """A tar file ends with a block of zeros; one that was cut between two members would seem whole without it."""
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        problems.add(f"{shard}: cut off: the mark of the archive's end is missing")
