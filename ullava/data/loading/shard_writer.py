"""From any dataset of images to shards: tar in the form of WebDataset, or Parquet as Hugging Face ``datasets`` writes.

The records are those that the readers see, unchanged, and the files are copied byte by byte, so that every sample of
the shards is that of the dataset (ullava.data.annotations.shards reads them).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ullava.atomic_write import whole_folder, write_json, write_whole
from ullava.config.load import dump_config
from ullava.config.schema import DatasetConfig, DatasetEntry, SplitConfig
from ullava.data.annotations.file_names import find_below
from ullava.data.annotations.shard_samples import (
    FILE_FIELDS,
    KEY_FIELD,
    Problems,
    StoredFile,
    record_text,
    refuse_videos,
)
from ullava.data.annotations.shards import CATEGORIES, ShardStore
from ullava.data.annotations.store import AnnotationStore
from ullava.data.annotations.tar_shards import RECORD_SUFFIX
from ullava.data.loading.build import image_root_of, open_store
from ullava.data.loading.descriptor import Located, locate
from ullava.data.loading.parquet_writer import ParquetShard
from ullava.data.readers.layouts import reader_of
from ullava.errors import DataError
from ullava.given_files import read_plain
from ullava.media.images import FORMATS
from ullava.shard_members import PARQUET, TAR, member_at

ShardFormat = Literal["webdataset", "parquet"]
SUFFIXES: dict[ShardFormat, str] = {"webdataset": TAR, "parquet": PARQUET}
_IMAGE_SUFFIXES = {name: {"JPEG": "jpg"}.get(name, name.lower()) for name in FORMATS}


class ShardFile(Protocol):
    """An open shard that takes samples."""

    def add(self, key: str, record: dict[str, Any], files: Sequence[StoredFile]) -> None:
        """Write one sample."""
        ...


@dataclass(frozen=True, slots=True)
class Written:
    """What one split became: ``pattern`` names its shards below the folder."""

    split: str
    pattern: str
    rows: int
    shards: int


def write_shards(
    dataset: str, splits: Sequence[str], data_root: Path, out: Path, *, rows_per_shard: int, form: ShardFormat
) -> list[Written]:
    """Write splits of a dataset as shards with a descriptor into the new folder ``out``; no splits: the usual one.

    ``out`` is complete or not there. Raises UserError for a dataset that cannot be opened, and for files that are
    missing, no images, or videos; each is named by its record.
    """
    if out.exists():
        raise DataError(f"{out}: exists already; name another folder or remove it")
    wanted: Sequence[str | None] = splits or [None]
    located = [locate(dataset, DatasetEntry(split=split), data_root) for split in wanted]
    written: list[Written] = []
    categories: dict[str, str] | None = None
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(out) as unfinished:
        for split in located:
            store = open_store(split)
            told = store.facts.get("categories")
            if written and told != categories:
                raise DataError(f"{split.annotations}: has other categories than {located[0].annotations}")
            categories = told
            written.append(_write_split(split, store, unfinished, rows_per_shard, form))
        if categories is not None:
            write_json(unfinished / CATEGORIES, categories)
        write_whole(unfinished / "dataset.yaml", dump_config(_descriptor(located[0].config, written)))
    return written


def _descriptor(config: DatasetConfig, written: Sequence[Written]) -> DatasetConfig:
    """Return the dataset's own descriptor with the shards in the place of its files."""
    left_out = config.original.leave_out if config.original is not None else []
    return replace(
        config,
        splits={split.split: SplitConfig(annotations=split.pattern, count=split.rows) for split in written},
        original=None,
        root=".",
        classes=[name for name in config.classes if name not in left_out],
    )


def _write_split(
    located: Located, store: AnnotationStore, out: Path, rows_per_shard: int, form: ShardFormat
) -> Written:
    rows = len(store)
    shards = -(-rows // rows_per_shard)
    if not shards:
        raise DataError(f"{located.annotations}: holds no records")
    problems = Problems()
    source = _Source(located, store)
    suffix = SUFFIXES[form]
    lists = source.lists() if form == "parquet" else {}
    with tqdm(total=rows, desc=f"writing {located.split}", unit="", disable=None) as bar:
        for number in range(shards):
            path = out / f"{located.split}-{number:06d}{suffix}"
            opened: AbstractContextManager[ShardFile]
            opened = (
                TarShard(path, source.image_field)
                if form == "webdataset"
                else ParquetShard(path, source.image_field, lists)
            )
            with opened as shard:
                for index in range(number * rows_per_shard, min(rows, (number + 1) * rows_per_shard)):
                    bar.update()
                    try:
                        record, files = source.sample(index)
                    except DataError as error:
                        for problem in error.problems:
                            problems.add(f"{store.where(index)}: {problem}")
                        continue
                    shard.add(f"{index:09d}", record, files)
    problems.tell()
    return Written(located.split, f"{located.split}-{{{0:06d}..{shards - 1:06d}}}{suffix}", rows, shards)


class _Source:
    """The records of a split with the content of their files."""

    def __init__(self, located: Located, store: AnnotationStore) -> None:
        self.store = store
        self.folder = image_root_of(located, store)
        self.image_field = reader_of(located.config.layout).image_field
        self.from_shards = isinstance(store, ShardStore) and store.holds_images

    def lists(self) -> dict[str, bool]:
        """Return the fields of files that records have, and whether any of them has a list there."""
        found: dict[str, bool] = {}
        for index in range(len(self.store)):
            record = self.store.record(index)
            for field in FILE_FIELDS:
                if record.get(field) is not None:
                    found[field] = found.get(field, False) or isinstance(record[field], list)
        return found

    def sample(self, index: int) -> tuple[dict[str, Any], list[StoredFile]]:
        """Return a record and its files. Raises DataError, without a place."""
        record = self.store.record(index)
        record.pop(KEY_FIELD, None)
        refuse_videos(record)
        files: list[StoredFile] = []
        for field in FILE_FIELDS:
            names = record.get(field)
            if names is None:
                continue
            many = isinstance(names, list)
            found = [
                self._file(field, place if many else None, name)
                for place, name in enumerate(names if many else [names])
            ]
            if self.from_shards:  # where they lay says nothing in another set; the store keeps one name
                kept = [file.name for file in found]
                record[field] = kept if many else self.store.image_name(index) if field == self.image_field else kept[0]
            files += found
        return record, files

    def _file(self, field: str, place: int | None, name: Any) -> StoredFile:
        path = find_below(self.folder, name, field)
        content = read_plain(path, what="image")
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                suffix = _IMAGE_SUFFIXES[str(image.format)]
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{path}: not an image of a known format ({', '.join(FORMATS)})") from error
        return StoredFile(field, place, path.name if member_at(path) else str(name), content, suffix)


class TarShard:
    """A tar file of samples in the form of WebDataset; equal samples give equal bytes."""

    def __init__(self, path: Path, image_field: str) -> None:
        self._path = path
        self._image_field = image_field
        self._stack = ExitStack()

    def __enter__(self) -> TarShard:
        self._tar = self._stack.enter_context(tarfile.open(self._path, "w", format=tarfile.USTAR_FORMAT))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, key: str, record: dict[str, Any], files: Sequence[StoredFile]) -> None:
        """Write the files of one sample, then its record."""
        for file in files:
            middle = f".{file.field}" if file.field != self._image_field or file.place is not None else ""
            place = "" if file.place is None else f".{file.place}"
            self._write(f"{key}{middle}{place}.{file.suffix}", file.content)
        self._write(f"{key}.{RECORD_SUFFIX}", record_text(record).encode("utf-8"))

    def _write(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._tar.addfile(info, io.BytesIO(content))
