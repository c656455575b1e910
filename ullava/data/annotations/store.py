"""Annotations as a memory-mapped Arrow file: one row a record, nothing held in Python, shared between workers.

A JSON list of half a million records costs gigabytes as Python objects, once per process. Here the file is streamed
once into ``<annotations>.ullava-cache/`` (or, where that cannot be written, below ``$ULLAVA_CACHE`` or the user's cache
folder). A row is the record's own JSON text, the name of its image and its line; opening maps the file, and
reading a record parses one row.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm import tqdm

from ullava.atomic_write import whole, write_whole
from ullava.data.annotations.coco_rows import coco_rows
from ullava.data.annotations.json_stream import Row, iter_records
from ullava.errors import DataError
from ullava.given_files import check_plain

SCHEMA_VERSION = 1
BATCH_ROWS = 4096
BATCH_BYTES = 8 << 20
PROGRESS_BYTES = 32 << 20
IMAGE_KEYS = ("image_path", "image", "file_name")

Kind = Literal["records", "coco"]
FACTS_SUFFIX = ".facts.json"
SIZES_SUFFIX = ".sizes.npy"
"""Of what ullava.data.annotations.text_lengths keeps beside a converted file."""
CLASSES_SUFFIX = ".classes.npz"
"""Of what ullava.data.annotations.class_table keeps there."""


class AnnotationStore:
    """Read access to a converted annotation file. Pickles as its two paths, so workers map it themselves."""

    def __init__(self, arrow: Path, source: Path) -> None:
        self.arrow = arrow
        self.source = source
        with pa.memory_map(str(arrow)) as mapped:
            table = pa.ipc.open_file(mapped).read_all()
        self._records = table.column("record")
        self._images = table.column("image")
        self._lines = table.column("line")
        self.facts: dict[str, Any] = json.loads(table.schema.metadata[b"ullava"])
        beside = arrow.with_suffix(FACTS_SUFFIX)
        if beside.is_file():
            self.facts |= json.loads(beside.read_text(encoding="utf-8"))

    @classmethod
    def open(cls, source: Path, kind: Kind = "records") -> AnnotationStore:
        """Map the converted form of ``source``, converting it first if this version of it was not converted yet."""
        check_plain(source, what="annotation file")
        arrow = cache_path(source, kind)
        if arrow.is_file():
            try:
                return cls(arrow, source)
            except (pa.ArrowException, OSError, KeyError, TypeError):
                arrow.unlink(missing_ok=True)
        convert(source, arrow, kind)
        return cls(arrow, source)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._records)

    def __reduce__(self) -> tuple[type[AnnotationStore], tuple[Path, Path]]:
        """Send the paths, not the data."""
        return type(self), (self.arrow, self.source)

    def record(self, index: int) -> dict[str, Any]:
        """Return record ``index`` (from 0) as a new dict."""
        value: dict[str, Any] = json.loads(self._records[index].as_py().decode("utf-8"))
        return value

    def where(self, index: int) -> str:
        """Return ``file:line: record n`` for error messages; the image where a record has no line of its own."""
        line = self._lines[index].as_py()
        if line:
            return f"{self.source}:{line}: record {index}"
        image = self.image_name(index)
        return f"{self.source}: record {index}{f' ({image})' if image else ''}"

    def image_name(self, index: int) -> str:
        """Return the image that record ``index`` names ('' without one), as written in the record."""
        name: str = self._images[index].as_py()
        return name

    def by_image(self) -> NDArray[np.int64]:
        """Return the numbers of the records in the order of their images' names, for look-ups by halving."""
        order: NDArray[np.int64] = pc.sort_indices(self._images).to_numpy().astype(np.int64)
        return order

    def groups(self, limit: int | None = None) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Group the first ``limit`` records by image: ``(order [n], starts [images + 1])``.

        The records of image g are ``order[starts[g]:starts[g + 1]]``; images stand in order of first appearance.
        """
        images = self._images.slice(0, len(self) if limit is None else limit)
        codes = np.concatenate(
            [np.zeros(0, np.int32), *(chunk.indices.to_numpy() for chunk in images.dictionary_encode().chunks)]
        )
        order = np.argsort(codes, kind="stable").astype(np.int32)
        counts = np.bincount(codes) if len(codes) else np.zeros(0, np.int64)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        pa.default_memory_pool().release_unused()
        return order, starts


def cache_path(source: Path, kind: str, also: str = "") -> Path:
    """Return where the converted form of this very version of ``source`` (a file or a folder) lies or will lie.

    ``also``: whatever else the converted form depends on.
    """
    source = source.resolve()
    state = source.stat()
    return cache_file(source, kind, f"{state.st_size}|{state.st_mtime_ns}|{SCHEMA_VERSION}|{kind}{also}")


def cache_file(source: Path, kind: str, state: str) -> Path:
    """Return where the converted form of ``source`` (an absolute path) lies; ``state``: all that its content is of."""
    name = f"{kind}-{hashlib.sha256(f'{source}|{state}'.encode()).hexdigest()[:20]}.arrow"
    beside = source.with_name(source.name + ".ullava-cache")
    if _takes_files(beside if beside.is_dir() else source.parent):
        return beside / name
    root = Path(os.environ.get("ULLAVA_CACHE") or Path.home() / ".cache" / "ullava")
    return root / hashlib.sha256(str(source).encode()).hexdigest()[:20] / name


def _takes_files(folder: Path) -> bool:
    """Whether files may be put there. A folder without any write bit stays as it is, even for root, who could."""
    return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)


def convert(source: Path, arrow: Path, kind: Kind = "records") -> None:
    """Stream ``source`` into ``arrow`` (written under another name, then renamed). Older conversions are removed."""
    _keep(source, arrow, kind, lambda: _convert_beside(source, arrow, kind))


def convert_rows(source: Path, arrow: Path, kind: str, rows: Iterable[Row], facts: dict[str, Any]) -> None:
    """Write ``rows``, made from ``source``, into ``arrow``; ``facts`` may still be filled while they are drawn."""

    def write() -> None:
        with whole(arrow) as unfinished:
            _write(unfinished, rows, {"source": source.name, "version": SCHEMA_VERSION})
            write_whole(arrow.with_suffix(FACTS_SUFFIX), json.dumps(facts))

    _keep(source, arrow, kind, write)


def _keep(source: Path, arrow: Path, kind: str, write: Callable[[], None]) -> None:
    """Make the folder, write, and remove what older versions of ``source`` became."""
    try:
        arrow.parent.mkdir(parents=True, exist_ok=True)
        write()
        for old in arrow.parent.glob(f"{kind}-*.arrow"):
            if old != arrow:
                old.unlink(missing_ok=True)
                old.with_suffix(FACTS_SUFFIX).unlink(missing_ok=True)
                for suffix in (SIZES_SUFFIX, CLASSES_SUFFIX):
                    for told in arrow.parent.glob(f"{old.stem}.*{suffix}"):
                        told.unlink(missing_ok=True)
    except OSError as error:
        hint = "set ULLAVA_CACHE to a folder with room for it"
        raise DataError(
            f"{source}: its converted form cannot be written to {arrow.parent} ({error}); {hint}"
        ) from error
    finally:
        with suppress(OSError):
            arrow.parent.rmdir()  # a folder that nothing came into; any other stays


def _convert_beside(source: Path, arrow: Path, kind: Kind) -> None:
    size = source.stat().st_size
    bar = tqdm(
        total=size,
        unit="B",
        unit_scale=True,
        desc=f"reading {source.name}",
        disable=size < PROGRESS_BYTES,
        mininterval=1,
    )
    with whole(arrow) as unfinished, bar:
        facts, rows = _rows(source, kind, bar.update)
        _write(unfinished, rows, facts | {"source": source.name, "version": SCHEMA_VERSION})


def _rows(source: Path, kind: Kind, on_read: Callable[[int], object]) -> tuple[dict[str, Any], Iterable[Row]]:
    if kind == "coco":
        return coco_rows(source, on_read)
    return {}, _plain_rows(source, on_read)


def _plain_rows(source: Path, on_read: Callable[[int], object]) -> Iterator[Row]:
    for _, line, text, value in iter_records(source, on_read):
        image = next((value[key] for key in IMAGE_KEYS if isinstance(value.get(key), str)), "")
        if "\n" in text:
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        yield Row(text.encode("utf-8"), image, line)


def _write(path: Path, rows: Iterable[Row], facts: Mapping[str, Any]) -> None:
    fields = [("record", pa.large_binary()), ("image", pa.large_string()), ("line", pa.int32())]
    schema = pa.schema(fields, metadata={"ullava": json.dumps(facts)})
    held: list[Row] = []
    held_bytes = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for row in rows:
            held.append(row)
            held_bytes += len(row.record)
            if len(held) >= BATCH_ROWS or held_bytes >= BATCH_BYTES:
                writer.write_batch(_batch(held, schema))
                held, held_bytes = [], 0
        if held:
            writer.write_batch(_batch(held, schema))


def _batch(rows: list[Row], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)
