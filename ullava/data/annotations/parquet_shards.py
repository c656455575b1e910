"""Parquet shards in the form that Hugging Face ``datasets`` writes: a row is a sample, a column a field of its record.

A column of a file holds ``{bytes, path}``, or bytes alone, or a list of either; one called ``image`` is the image that
the layout asks for. A column ``record`` of text holds the whole record as JSON, for records whose fields have not one
type throughout. Bytes are not read here unless it has to be known which rows have some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from ullava.data.annotations.json_stream import parse_record_text
from ullava.data.annotations.shard_samples import FILE_FIELDS, Problems, ShardSample
from ullava.errors import DataError
from ullava.given_files import check_plain
from ullava.shard_members import address

RECORD_COLUMN = "record"
BYTES, PATH = "bytes", "path"


def parquet_samples(
    shard: Path, name: str, image_field: str, problems: Problems, on_read: Callable[[int], object]
) -> Iterator[ShardSample]:
    """Yield the samples of one Parquet file in its order; the arguments are those of ``tar_shards.tar_samples``.

    A sample's key is the number of its row in the file.
    """
    check_plain(shard, what="shard")
    try:
        with parquet.ParquetFile(shard) as file:
            try:
                columns = _Columns(file.schema_arrow, image_field)
            except DataError as error:
                problems.add(f"{shard}: {error}")
                return
            first = 0
            for group in range(file.num_row_groups):
                yield from _of_group(file, group, first, columns, shard, name, problems)
                first += file.metadata.row_group(group).num_rows
                on_read(file.metadata.row_group(group).total_byte_size)
    except (pa.ArrowException, OSError) as error:
        problems.add(f"{shard}: not a Parquet file, or damaged: {error}")


class _Columns:
    """Which columns hold files, and of which field of a record; which ones hold the record."""

    def __init__(self, schema: pa.Schema, image_field: str) -> None:
        self.files: dict[str, str] = {}
        for field in schema:
            if _holds_bytes(field.type):
                owner = image_field if field.name == "image" else field.name
                if owner not in FILE_FIELDS or owner in self.files.values():
                    raise DataError(f"column '{field.name}' holds bytes, and no field of a record that has a file")
                self.files[field.name] = owner
        self.plain = [field.name for field in schema if field.name not in self.files]
        self.types = {name: schema.field(name).type for name in self.files}
        if RECORD_COLUMN in self.plain:
            kind = schema.field(RECORD_COLUMN).type
            if self.plain != [RECORD_COLUMN] or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise DataError(f"column '{RECORD_COLUMN}' has to be text, the whole record, beside files alone")
        self.as_json = RECORD_COLUMN in self.plain


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_bytes(kind.value_type)
    if pa.types.is_struct(kind):
        return kind.get_field_index(BYTES) >= 0 and _holds_bytes(kind.field(BYTES).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _of_group(
    file: Any, group: int, first: int, columns: _Columns, shard: Path, name: str, problems: Problems
) -> Iterator[ShardSample]:
    """Yield the rows of one row group; ``first`` is the number of its first row in the file."""
    count = file.metadata.row_group(group).num_rows
    table = file.read_row_group(group, columns=columns.plain, use_threads=False)
    values = table.to_pylist() if columns.plain else [{} for _ in range(count)]
    files = {column: _files(file, group, column, columns.types[column]) for column in columns.files}
    for row, value in enumerate(values):
        key = str(first + row)
        try:
            record = _record(value, columns)
            stored: dict[str, str | list[str]] = {}
            for column, field in columns.files.items():
                _place(record, stored, field, files[column][row], partial(address, name, group, row), column)
        except DataError as error:
            problems.add(f"{shard}: sample {key}: {error}")
            continue
        yield ShardSample(key, record, stored)


def _record(value: dict[str, Any], columns: _Columns) -> dict[str, Any]:
    if not columns.as_json:
        return dict(_without_null(value))
    text = value[RECORD_COLUMN]
    if text is None:
        raise DataError(f"column '{RECORD_COLUMN}' is null")
    return parse_record_text(text)


def _without_null(value: Any) -> Any:
    """Parquet gives every row all fields of a column's type; those that are null were never there."""
    if isinstance(value, dict):
        return {key: _without_null(entry) for key, entry in value.items() if entry is not None}
    return [_without_null(entry) for entry in value] if isinstance(value, list) else value


_File = tuple[bool, str | None]
"""Whether the row holds the bytes of a file, and what its path says."""


def _place(
    record: dict[str, Any],
    stored: dict[str, str | list[str]],
    field: str,
    found: _File | list[_File] | None,
    at: Callable[[str], str],
    column: str,
) -> None:
    """Put the address of a file among ``stored``; without bytes, its path into a record that does not name one."""
    if found is None:
        return
    listed = found if isinstance(found, list) else [found]
    names = [column] if not isinstance(found, list) else [f"{column}.{place}" for place in range(len(found))]
    many = isinstance(found, list) and not (len(found) == 1 and isinstance(record.get(field), str))
    held = {has_bytes for has_bytes, _ in listed}
    if len(held) > 1:
        raise DataError(f"'{column}' holds the bytes of some of its files alone")
    paths = [path for _, path in listed if path is not None]
    if held == {True}:  # a path beside bytes is often the last part of one, and tells no image from others
        stored[field] = [at(name) for name in names] if many else at(names[0])
    elif len(paths) == len(listed) and field not in record:
        record[field] = paths if many else paths[0]


def _files(file: Any, group: int, column: str, kind: pa.DataType) -> list[_File | list[_File] | None]:
    """Return for each row of a group whether it holds bytes, and its path."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        rows = file.read_row_group(group, columns=[column], use_threads=False).column(0).to_pylist()
        return [None if entries is None else [_of_value(entry) for entry in entries] for entries in rows]
    if not pa.types.is_struct(kind):
        held = _has_bytes(file, group, column)
        return [(True, None) if there else None for there in held]
    count = file.metadata.row_group(group).num_rows
    held = _has_bytes(file, group, f"{column}.{BYTES}")
    paths: list[str | None] = [None] * count
    if kind.get_field_index(PATH) >= 0:
        wanted = file.read_row_group(group, columns=[f"{column}.{PATH}"], use_threads=False).column(0).combine_chunks()
        paths = pc.struct_field(wanted, PATH).to_pylist()
    return [(there, path) if there or path is not None else None for there, path in zip(held, paths, strict=True)]


def _of_value(value: Any) -> _File:
    if isinstance(value, dict):
        return value[BYTES] is not None, value.get(PATH)
    return value is not None, None


def _has_bytes(file: Any, group: int, leaf: str) -> list[bool]:
    """Whether each row has bytes: from the statistics where they tell it, else from the bytes themselves."""
    about = file.metadata.row_group(group)
    chunk = next(about.column(n) for n in range(about.num_columns) if about.column(n).path_in_schema == leaf)
    told = chunk.statistics
    if told is not None and told.has_null_count and told.null_count in (0, about.num_rows):
        return [told.null_count == 0] * int(about.num_rows)
    column = file.read_row_group(group, columns=[leaf], use_threads=False).column(0).combine_chunks()
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, BYTES)
    there: list[bool] = pc.is_valid(column).to_pylist()
    return there
