"""Sets of shards (tar, Parquet) as annotations: an index that is built once and mapped, images read where they lie.

The index is an annotation store (ullava.data.annotations.store) whose records carry the addresses of their files
(ullava.shard_members) in the place of names. So readers, mixture and loading see nothing of shards, and every sample
can be reached by its number: the order of training stays a function of seed and position. It lies in
``shards.ullava-cache/`` beside the shards (or in the cache folder) and is keyed by the name, size and time of every
shard: one that was changed is read again.
"""

from __future__ import annotations

import bisect
import glob
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from ullava.data.annotations.json_stream import Row, read_json_text
from ullava.data.annotations.parquet_shards import parquet_samples
from ullava.data.annotations.shard_samples import KEY_FIELD, Problems, ShardSample, row_of
from ullava.data.annotations.store import PROGRESS_BYTES, SCHEMA_VERSION, AnnotationStore, cache_file, convert_rows
from ullava.data.annotations.tar_shards import tar_samples
from ullava.errors import DataError
from ullava.given_files import read_plain_text
from ullava.shard_members import PARQUET, TAR, member_at, read_member

INDEX_VERSION = 1
CATEGORIES = "categories.json"
"""Beside the shards: number and name of the categories of records that give numbers alone (coco_instances)."""
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_SPECIAL = re.compile(r"[*?\[{]")


def are_shards(annotations: Path) -> bool:
    """Whether a path in the place of an annotation file names shards: by its suffix."""
    return annotations.suffix in (TAR, PARQUET)


class ShardStore(AnnotationStore):
    """The records of a set of shards. ``source`` is the pattern that names them."""

    def __init__(self, arrow: Path, source: Path) -> None:
        super().__init__(arrow, source)
        self.folder, _ = split_pattern(source)
        self._starts: list[int] = self.facts["starts"]
        self._names: list[str] = self.facts["shards"]

    @classmethod
    def open_shards(cls, pattern: Path, image_field: str) -> ShardStore:
        """Map the index of the shards that ``pattern`` names; build it where these very shards have none yet.

        ``image_field``: which field of a record the image belongs to that a sample holds.

        Raises:
            DataError: shards that are missing, cut off or of another form, samples that are not whole; each is named by
                shard and key.
        """
        folder, names = shard_names(pattern)
        state = _state(folder, names, image_field)
        kind = "shards_" + hashlib.sha256(f"{pattern.name}|{image_field}".encode()).hexdigest()[:8]
        arrow = cache_file(folder.resolve() / "shards", kind, state)
        if arrow.is_file():
            try:
                return cls(arrow, pattern)
            except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
                arrow.unlink(missing_ok=True)
        facts: dict[str, Any] = _categories(folder)
        convert_rows(pattern, arrow, kind, _rows(folder, names, image_field, facts), facts)
        if _state(folder, names, image_field) != state:
            arrow.unlink(missing_ok=True)
            raise DataError(
                f"{pattern}: the shards were changed while their index was made; start again when they rest"
            )
        return cls(arrow, pattern)

    def where(self, index: int) -> str:
        """Return shard, key and record number for error messages."""
        shard = self._names[bisect.bisect_right(self._starts, index) - 1]
        return f"{self.folder / shard}: sample {self.record(index)[KEY_FIELD]}: record {index}"

    @property
    def holds_images(self) -> bool:
        """Whether images lie in the shards; else records name files, or show nothing."""
        return bool(self.facts["stored"])


def split_pattern(pattern: Path) -> tuple[Path, str]:
    """Return the folder above the first part with a range or wild card (or of the one file), and the rest."""
    parts = pattern.parts
    first = next((place for place, part in enumerate(parts) if _SPECIAL.search(part)), len(parts) - 1)
    return Path(*parts[:first]), PurePosixPath(*parts[first:]).as_posix()


def shard_names(pattern: Path) -> tuple[Path, list[str]]:
    """Return the folder and the names below it, in order, of the shards that a pattern names.

    ``{000000..000099}`` is a range, all of which has to be there; ``*``, ``?`` and ``[...]`` match what is there, by
    name. Raises DataError for a shard that is missing, and where nothing matches.
    """
    folder, below = split_pattern(pattern)
    names: list[str] = []
    for part in _expanded(below, pattern):
        if glob.has_magic(part):
            found = sorted(path.relative_to(folder).as_posix() for path in folder.glob(part) if path.is_file())
            if not found:
                raise DataError(f"{pattern}: no shard is called so in {folder}")
            names += found
        else:
            names.append(part)
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        more = f" (and {len(absent) - 1} more of {len(names)})" if len(absent) > 1 else ""
        raise DataError(f"{folder / absent[0]}: no such shard{more}")
    if len(set(names)) < len(names):
        raise DataError(f"{pattern}: names a shard twice")
    return folder, names


def _expanded(text: str, pattern: Path) -> list[str]:
    """Spell out the ranges of a pattern."""
    found = _RANGE.search(text)
    if found is None:
        if "{" in text or "}" in text:
            raise DataError(f"{pattern}: a range is written {{000000..000099}}, first and last number")
        return [text]
    first, last = int(found[1]), int(found[2])
    if last < first:
        raise DataError(f"{pattern}: the range {found[0]} ends before it begins")
    width = len(found[1]) if found[1].startswith("0") else 0
    rest = _expanded(text[found.end() :], pattern)
    return [f"{text[: found.start()]}{number:0{width}d}{tail}" for number in range(first, last + 1) for tail in rest]


def _state(folder: Path, names: list[str], image_field: str) -> str:
    """All that the index is made of, as text: another name, size or time of a shard is another index."""
    digest = hashlib.sha256(f"{INDEX_VERSION}|{SCHEMA_VERSION}|{image_field}".encode())
    for name in [*names, *([CATEGORIES] if (folder / CATEGORIES).is_file() else [])]:
        found = (folder / name).stat()
        digest.update(f"|{name}|{found.st_size}|{found.st_mtime_ns}".encode())
    return digest.hexdigest()


def _categories(folder: Path) -> dict[str, Any]:
    path = folder / CATEGORIES
    if not path.is_file():
        return {}
    value = read_json_text(path, read_plain_text(path))
    if not isinstance(value, dict) or not all(key.isdecimal() and isinstance(name, str) for key, name in value.items()):
        raise DataError(f'{path}: has to be an object of numbers and names, {{"1": "person"}}')
    return {"categories": value}


def _rows(folder: Path, names: list[str], image_field: str, facts: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows of all shards, and tell in ``facts`` where each begins and whether images lie in them.

    Raises DataError with what is wrong with any of them, when all were read.
    """
    problems = Problems()
    starts: list[int] = []
    rows = stored = named = 0
    size = sum((folder / name).stat().st_size for name in names)
    bar = tqdm(
        total=size, unit="B", unit_scale=True, desc="reading shards", disable=size < PROGRESS_BYTES, mininterval=1
    )
    with bar:
        for name in names:
            starts.append(rows)
            tar = name.endswith(TAR)
            first: dict[str, ShardSample] = {}
            samples = tar_samples if tar else parquet_samples
            for sample in samples(folder / name, name, image_field, problems, bar.update):
                try:
                    row = row_of(_with_shared_image(sample, first, folder, image_field), names_files=not tar)
                except DataError as error:
                    problems.add(f"{folder / name}: sample {sample.key}: {error}")
                    continue
                rows += 1
                stored += bool(sample.files)
                named += bool(row.image) and not sample.files
                yield row
    if stored and named:
        problems.add(
            f"{folder}: {stored} samples hold their images and {named} name files; one set does the one or the other"
        )
    problems.tell()
    facts |= {"shards": names, "starts": starts, "stored": stored}


def _with_shared_image(
    sample: ShardSample, first: dict[str, ShardSample], folder: Path, image_field: str
) -> ShardSample:
    """Let samples of a shard that name one image have one address for it, so that it is one image in a batch too.

    ``first``: the first sample of the shard with each name. Raises DataError where two images have one name.
    """
    named, stored = sample.record.get(image_field), sample.files.get(image_field)
    if not isinstance(named, str) or not isinstance(stored, str):
        return sample
    before = first.setdefault(named, sample)
    if before is sample:
        return sample
    alike = before.files[image_field]
    one, other = (member_at(folder / str(place)) for place in (alike, stored))
    if one is None or other is None or read_member(one) != read_member(other):
        raise DataError(f"names the image '{named[:60]}' as sample {before.key} does, but holds another one")
    return sample._replace(files={**sample.files, image_field: alike})
