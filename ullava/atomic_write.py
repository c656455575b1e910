"""Files and folders that are there whole or not at all: written under another name beside their place, then renamed.

Where the disk refuses (it is full, a quota is used up, it cannot be written), the error is an OSError that names the
file, whatever the library that wrote made of it; what was begun is removed, and what stood there before stays.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ullava.errors import ConfigError, UserError

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM})
"""Why a disk refuses to take what is written."""

_FOREIGN = re.compile(r"\((?:os error|errno) (\d+)\)|\[Errno (\d+)\]", re.IGNORECASE)
"""How libraries that are not Python (safetensors, tokenizers, pyarrow) tell the number of an error."""
_UNTOLD = re.compile(r"iostream error|PytorchStreamWriter failed|unexpected pos \d+ vs|\d+ requested and \d+ written")
"""How torch and numpy say that a file took less than it was given; neither tells why."""


def refusal(error: BaseException | None) -> OSError | None:
    """Return what the disk refused as an OSError where ``error``, or one that it came from, says so; else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return error
        text = str(error)
        if told := _FOREIGN.search(text):
            number = int(told[1] or told[2])
            if number in DISK_ERRORS:
                return OSError(number, os.strerror(number))
        if _UNTOLD.search(text):
            return OSError(errno.EIO, "writing stopped half way; is the disk full?")
        error = error.__cause__
    return None


@contextmanager
def writing(path: Path, unfinished: Path | None = None) -> Iterator[None]:
    """Let errors of the disk name ``path``, also where what is written has the name ``unfinished`` for now."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        refused = refusal(error)
        if refused is None:
            raise
        named = None if refused.filename is None else Path(os.fsdecode(refused.filename))
        if named is None or (unfinished is not None and named.is_relative_to(unfinished)):
            raise OSError(refused.errno, refused.strerror, str(path)) from error
        raise


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give the name to write under; what stands there at the end becomes ``path``, unless there was an error.

    Readers see the old file or the new one, and two writers do not meet.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with writing(path, unfinished):
            yield unfinished
            os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write ``content``, text as UTF-8, to ``path``."""
    with whole(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> Path:
    """Write ``value`` as indented JSON and return ``path``. NaN is refused with ValueError (it is not JSON)."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def begin_lines(path: Path, head: str, others: str) -> list[bytes]:
    """Return the lines below ``head`` of a file that a run ``append``s to; begin it with ``head`` where there is none.

    A last line that was cut short is taken off the file. Raises ConfigError where the first line is not ``head``:
    it was begun with other ``others``.
    """
    if not path.is_file():
        write_whole(path, head + "\n")
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    if not lines or lines[0].decode("utf-8", "replace").rstrip("\n") != head:
        raise ConfigError(f"{path}: was begun with other {others}; remove it or name another --out")
    if not lines[-1].endswith(b"\n"):
        lines.pop()
        write_whole(path, b"".join(lines))
    return lines[1:]


def append(path: Path, text: str) -> None:
    """Write ``text`` on at the end of ``path``. Readers of such files leave out a last line that was cut short."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give the empty folder to write into, which becomes ``folder`` at the end, unless there was an error.

    What stands there before stays until the new one is complete. What a killed process left unfinished is removed.
    """
    drafts, replaced = f".{folder.name}.new.", f".{folder.name}.old."
    with writing(folder):
        _remove(folder.parent, drafts)
        draft = folder.with_name(drafts + uuid.uuid4().hex)
        draft.mkdir(parents=True)
    try:
        with writing(folder, draft):
            yield draft
            if folder.exists():
                os.replace(folder, folder.with_name(replaced + uuid.uuid4().hex))
            os.replace(draft, folder)
            _remove(folder.parent, replaced)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_folder(folder: Path) -> None:
    """Make sure that ``folder`` is, or can become, a folder to write into: a few bytes are tried and removed.

    Raises:
        UserError: a file is in the way, or the disk refuses.
    """
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"{folder}: {'is' if nearest == folder.absolute() else 'lies below'} a file, not a folder")
    try:
        write_whole(tried := nearest / f".ullava.{uuid.uuid4().hex}", b"\0" * TRIED_BYTES)
        tried.unlink()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from None


TRIED_BYTES = 4096


def make_folder(folder: Path) -> Path:
    """Create ``folder`` with its parents if need be and return it.

    Raises:
        UserError: as ``check_folder``, or the system refuses.
    """
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be created ({error.strerror})") from None
    return folder


def _remove(parent: Path, prefix: str) -> None:
    for path in list(parent.iterdir()) if parent.is_dir() else []:
        if path.name.startswith(prefix):
            shutil.rmtree(path)
