"""Parquet shards as Hugging Face ``datasets`` writes them: ``record`` as JSON, images as ``{bytes, path}``.

Row groups are small: to read one image of a Parquet file is to read its row group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from ullava.data.annotations.parquet_shards import BYTES, PATH, RECORD_COLUMN
from ullava.data.annotations.shard_samples import StoredFile, record_text

GROUP_BYTES = 1 << 20
GROUP_ROWS = 1000


class ParquetShard:
    """A Parquet file of samples. ``lists``: the fields of files, and whether a row may have several of each."""

    def __init__(self, path: Path, image_field: str, lists: Mapping[str, bool]) -> None:
        from datasets import Features, Image, List, Value

        self._columns = {field: "image" if field == image_field else field for field in lists}
        self._lists = lists
        kinds = {column: List(Image()) if lists[field] else Image() for field, column in self._columns.items()}
        self._schema: pa.Schema = Features({RECORD_COLUMN: Value("large_string"), **kinds}).arrow_schema
        self._path = path
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def __enter__(self) -> ParquetShard:
        self._writer = parquet.ParquetWriter(self._path, self._schema, compression=_compression(self._schema))
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        self._writer.close()

    def add(self, key: str, record: dict[str, Any], files: Iterable[StoredFile]) -> None:
        """Write one sample; its number in the file is its key."""
        row: dict[str, Any] = {RECORD_COLUMN: record_text(record)}
        held: dict[str, list[dict[str, Any]]] = {}
        for file in files:
            held.setdefault(file.field, []).append({BYTES: file.content, PATH: file.name})
            self._bytes += len(file.content)
        for field, found in held.items():
            row[self._columns[field]] = found if self._lists[field] else found[0]
        self._rows.append(row)
        self._bytes += len(row[RECORD_COLUMN])
        if self._bytes >= GROUP_BYTES or len(self._rows) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows, self._bytes = [], 0


def _compression(schema: pa.Schema) -> dict[str, str]:
    """Text is compressed; images are so already."""
    leaves: Sequence[str] = [parquet_path for field in schema for parquet_path in _leaves(field.name, field.type)]
    return {leaf: "none" if leaf.endswith(f".{BYTES}") else "zstd" for leaf in leaves}


def _leaves(name: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_struct(kind):
        return [leaf for part in kind for leaf in _leaves(f"{name}.{part.name}", part.type)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _leaves(f"{name}.list.element", kind.value_type)
    return [name]
