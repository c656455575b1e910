"""The one way to open a file that a user names: a plain file is opened, everything else is refused in one line.

A named pipe would hang the program, a folder or a device would end it with a traceback. What is looked at is the open
file itself, so that nothing can change between the look and the reading.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from ullava.errors import DataError, UserError
from ullava.shard_members import member_at, read_member

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""Without O_NONBLOCK the opening of a named pipe waits for somebody who writes into it."""


class _Named(io.FileIO):
    """An open file that says which one it is where reading it fails: a broken disk, a network that is gone."""

    def __init__(self, handle: int, path: Path, error: type[UserError]) -> None:
        super().__init__(handle, "rb")
        self._path, self._error = path, error

    def readinto(self, buffer: Any, /) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as refusal:
            raise self._error(f"{self._path}: {_reason(self._path, refusal)}") from None

    def readall(self) -> bytes:
        try:
            return super().readall()
        except OSError as refusal:
            raise self._error(f"{self._path}: {_reason(self._path, refusal)}") from None


def open_plain(path: Path, *, what: str = "file", error: type[UserError] = DataError) -> BinaryIO:
    """Open a plain file for reading bytes. ``what`` is how the message calls it ("no such image").

    The address of a file inside of a shard (ullava.shard_members) opens what lies there, in memory.

    Raises ``error`` naming the path if it is missing, may not be read, or is a folder, named pipe, socket or device;
    so do its own ``read`` and the like where the disk fails.
    """
    try:
        handle = os.open(path, _FLAGS)
    except FileNotFoundError:
        raise error(f"{path}: no such {what}") from None
    except NotADirectoryError as refusal:
        return io.BytesIO(_inside(path, refusal, error))
    except (OSError, ValueError) as refusal:  # ValueError: a name that no file can have (a zero byte, a surrogate)
        raise error(f"{_shown(path)}: {_reason(path, refusal)}") from None
    kind = _kind(os.fstat(handle).st_mode)
    if kind is not None:
        os.close(handle)
        raise error(f"{path}: is {kind}, not a file")
    return io.BufferedReader(_Named(handle, path, error))


def check_plain(path: Path, *, what: str = "file", error: type[UserError] = DataError) -> None:
    """Raise ``error`` as ``open_plain`` would for what is not there or no plain file; for files that others open."""
    try:
        kind = _kind(os.stat(path).st_mode)
    except FileNotFoundError:
        raise error(f"{path}: no such {what}") from None
    except NotADirectoryError as refusal:
        if member_at(path) is None:
            raise error(f"{path}: no such {what}") from None
        _inside(path, refusal, error)
        return
    except (OSError, ValueError) as refusal:
        raise error(f"{_shown(path)}: {_reason(path, refusal)}") from None
    if kind is not None:
        raise error(f"{path}: is {kind}, not a file")


def read_plain(path: Path, *, what: str = "file", error: type[UserError] = DataError) -> bytes:
    """Return the content of a plain file. Raises ``error`` as ``open_plain``."""
    with open_plain(path, what=what, error=error) as file:
        try:
            return file.read()
        except (OSError, MemoryError) as refusal:
            raise error(f"{path}: {_reason(path, refusal)}") from None


def read_plain_text(path: Path, *, what: str = "file", error: type[UserError] = DataError) -> str:
    """Return the text of a plain UTF-8 file, a byte-order mark at its start left out. Raises ``error``."""
    try:
        return read_plain(path, what=what, error=error).decode("utf-8-sig")
    except UnicodeDecodeError as refusal:
        raise error(f"{path}: is not UTF-8 text (byte {refusal.start})") from None


def _inside(path: Path, refusal: OSError, error: type[UserError]) -> bytes:
    """Return what lies inside of a shard; raise ``error`` for a path below a file that is no shard."""
    member = member_at(path)
    if member is None:
        raise error(f"{_shown(path)}: {_reason(path, refusal)}") from None
    try:
        return read_member(member)
    except DataError as fault:
        raise error(fault.problems) from fault


def _kind(mode: int) -> str | None:
    """Return what a file that is not a plain one is."""
    if stat.S_ISREG(mode):
        return None
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")


def _reason(path: Path, refusal: BaseException) -> str:
    """Say why a file could not be opened or read; opening a socket fails with a number that says nothing."""
    try:
        kind = _kind(os.stat(path).st_mode)
    except (OSError, ValueError):
        kind = None
    if kind is not None:
        return f"is {kind}, not a file"
    reason = refusal.strerror if isinstance(refusal, OSError) and refusal.strerror else str(refusal)
    return f"cannot be read ({reason or type(refusal).__name__})"


def _shown(path: Path) -> str:
    """Return a path as text that every terminal and log can take."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")
