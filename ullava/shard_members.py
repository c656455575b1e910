"""Files that lie inside of shards (tar, Parquet), each with an address that is a path: one way to read them.

``SHARD.tar/@OFFSET+SIZE/NAME`` are the SIZE bytes at OFFSET of a tar file, the member called NAME;
``SHARD.parquet/@GROUP+ROW/COLUMN`` is the value of a row of a row group (``COLUMN.N``: entry N of its list). No such
path can be there by itself, for its parent is a file. So whoever takes the path of an image takes an address too, and
``ullava.given_files.open_plain`` reads it; ``ullava.data.annotations.shards`` writes them.
"""

from __future__ import annotations

import os
import re
import tarfile
import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ullava.errors import DataError

TAR, PARQUET = ".tar", ".parquet"
KEPT_BYTES = 256 << 20
"""Of row groups that a process keeps: neighbors in a shard are often asked for soon after each other."""
FILES_KEPT = 64
"""Parquet files whose footers a process keeps."""
_PLACE = re.compile(r"@(\d+)\+(\d+)")
_LISTED = re.compile(r"(.+)\.(\d+)")


class Member(NamedTuple):
    """Where a file lies: ``first`` and ``second`` are offset and size in a tar file, row group and row in Parquet."""

    shard: Path
    first: int
    second: int
    name: str


def address(shard: str, first: int, second: int, name: str) -> str:
    """Return the path of what lies inside of ``shard``, in slashes; the parts are those of ``Member``."""
    return f"{shard}/@{first}+{second}/{name}"


def member_at(path: Path) -> Member | None:
    """Return what an address means; None for any other path."""
    place = _PLACE.fullmatch(path.parent.name)
    shard = path.parent.parent
    if place is None or shard.suffix not in (TAR, PARQUET):
        return None
    return Member(shard, int(place[1]), int(place[2]), path.name)


def read_member(member: Member) -> bytes:
    """Return the bytes of a file inside of a shard.

    Raises:
        DataError: naming the shard, where it cannot be read, or does not hold this file at this place any more.
    """
    try:
        return _of_tar(member) if member.shard.suffix == TAR else _of_parquet(member)
    except OSError as error:
        raise DataError(f"{member.shard}: cannot be read ({error.strerror or error}), member {member.name}") from error


def _of_tar(member: Member) -> bytes:
    """Read header and content at once. The header tells whether the index is of this very shard."""
    head = tarfile.BLOCKSIZE
    with open(member.shard, "rb", buffering=0) as file:
        file.seek(max(member.first - head, 0))
        read = _read_all(file.fileno(), head + member.second)
    try:
        found = tarfile.TarInfo.frombuf(read[:head], "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _moved(member) from error
    name = found.name.rpartition("/")[2]
    # Names that are long or not ASCII stand in a header of their own, and here cut or altered.
    told = member.name.isascii() and len(found.name) < tarfile.LENGTH_NAME
    if found.size != member.second or (told and name != member.name):
        raise _moved(member)
    if len(read) != head + member.second:
        raise DataError(f"{member.shard}: cut off within the member {member.name}")
    return read[head:]


def _read_all(handle: int, count: int) -> bytes:
    """Read ``count`` bytes, fewer at the end of the file: a single call may give less than was asked for."""
    parts: list[bytes] = []
    while count and (part := os.read(handle, count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _moved(member: Member) -> DataError:
    return DataError(f"{member.shard}: does not hold {member.name} where its index says: the shard was changed since")


class _RowGroups:
    """The row groups of Parquet files that were decoded last, one column of each."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, int, int, str], Any] = OrderedDict()
        self._lock = threading.Lock()

    def column(self, shard: Path, group: int, name: str) -> Any:
        """Return a column of a row group as a pyarrow array."""
        state = shard.stat()
        key = shard, state.st_mtime_ns, group, name
        with self._lock:
            if key not in self._kept:
                file = _parquet_file(shard, state.st_mtime_ns, state.st_size)
                column = file.read_row_group(group, columns=[name], use_threads=False).column(0)
                self._kept[key] = column.combine_chunks()
                while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > KEPT_BYTES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]


_ROW_GROUPS = _RowGroups()


@lru_cache(maxsize=FILES_KEPT)
def _parquet_file(shard: Path, changed_ns: int, size: int) -> Any:
    """Open a file once for each of its versions."""
    from pyarrow import parquet

    return parquet.ParquetFile(shard)


def _of_parquet(member: Member) -> bytes:
    import pyarrow as pa

    listed = _LISTED.fullmatch(member.name)
    name, place = (listed[1], int(listed[2])) if listed else (member.name, None)
    try:
        value = _ROW_GROUPS.column(member.shard, member.first, name)[member.second].as_py()
        if place is not None:
            value = value[place]
        value = value["bytes"] if isinstance(value, dict) else value
    except (pa.ArrowException, IndexError, KeyError, TypeError) as error:
        raise _moved(member) from error
    if not isinstance(value, bytes):
        raise _moved(member)
    return value
