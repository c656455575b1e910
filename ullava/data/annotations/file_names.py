"""From the name of a file, as some machine wrote it into an annotation, to the file that is meant.

Names come with the slashes of Windows, with accents as one sign or as two (Unicode's NFC and NFD: Linux and Windows
write the first, macOS the second), with the folders of another machine. What can be found below the folder is found;
everything else is refused with the reason.
"""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ullava.errors import DataError

MAX_NAME_BYTES = 255
"""No file system of today takes a longer name of a file or folder."""
MAX_PATH_BYTES = 4095
_SHOWN = 60
_BELOW = "has to be a path below the folder of the images"
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def find_below(folder: Path, name: Any, key: str = "") -> Path:
    """Return the file below ``folder`` that ``name`` means; where there is none, where it would be.

    A name that is there as it stands is taken as it stands. ``key``: the field that holds it, for messages. Raises
    DataError for a name that is no text or cannot be one of a file, that is absolute or leads out of the folder, and
    where two files differ only in how accents are written.
    """
    written = _checked(name)
    if not (folder / written).exists() and "\\" in written:
        written = written.replace("\\", "/")
    reason = ""
    if written.startswith("/") or _DRIVE.match(written):
        reason = "it is absolute"
    elif ".." in PurePosixPath(written).parts:
        reason = "it leads out with '..'"
    elif not PurePosixPath(written).parts:
        reason = "it names the folder itself"
    if reason:
        last = last_part(name)
        hint = f"; '{last}' is in the folder" if last and (folder / last).is_file() else ""
        wrong = f"'{key}' {_BELOW}, not '{_short(name)}'" if key else f"'{_short(name)}' {_BELOW}"
        raise DataError(f"{wrong}: {reason}{hint}")
    return _walk(folder, written)


def find_from(folder: Path, name: Any) -> Path:
    """Return the file that ``name``, seen from ``folder``, means: it may lie anywhere; else as ``find_below``."""
    written = _checked(name)
    if not (folder / written).exists():
        if "\\" in written and (_DRIVE.match(written) or written.startswith("\\")):
            raise DataError(f"'{_short(name)}' is an absolute path of a Windows machine")
        written = written.replace("\\", "/")
    return _walk(folder, written)


def last_part(name: str) -> str:
    """Return the name of the file without its folders, whichever slashes it is written with."""
    return PurePosixPath(PureWindowsPath(name).as_posix()).name


def utf8_name(path: Path) -> str:
    """Return the name of a file that is there; DataError where its bytes are no text and no annotation can name it."""
    if _bytes(path.name) is None:
        raise DataError(f"{path.parent}: the name of a file is not UTF-8 text: {os.fsencode(path.name)!r}; rename it")
    return path.name


def _checked(name: Any) -> str:
    if not isinstance(name, str):
        raise DataError(f"the name of a file has to be text, not {type(name).__name__}")
    encoded = _bytes(name)
    if encoded is None:
        raise DataError("the name of a file holds half of a surrogate pair")
    if "\0" in name:
        raise DataError(f"'{_short(name)}' holds a null character, which no file name has")
    longest = max(len(part) for part in re.split(rb"[\\/]", encoded))
    if longest > MAX_NAME_BYTES or len(encoded) > MAX_PATH_BYTES:
        raise DataError(f"'{_short(name)}' is longer than names of files can be ({len(name)} letters)")
    if not name.strip():
        raise DataError(f"'{name}' names no file")
    return name


def _walk(folder: Path, name: str) -> Path:
    if name.isascii() or not folder.is_dir():
        return folder / name
    here = folder
    for part in PurePosixPath(name).parts:
        forms = dict.fromkeys([part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part)])
        there = [here / form for form in forms if (here / form).exists()]
        different = [path for path in there[1:] if not path.samefile(there[0])]
        if different:
            raise DataError(
                f"{there[0]}: another file, {ascii(different[0].name)}, differs from {ascii(there[0].name)} only in "
                "how accents are written (Unicode NFC and NFD); rename or remove one of them"
            )
        here = there[0] if there else here / part
    return here


def _bytes(name: str) -> bytes | None:
    try:
        return name.encode("utf-8")
    except UnicodeEncodeError:
        return None


def _short(name: str) -> str:
    shown = name.replace("\0", "\\0")
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
