"""What all conversions of original files share: where the files are, and how a record is left out with a reason."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ullava.data.images import FORMATS
from ullava.data.json_stream import JsonCursor
from ullava.data.store import Row
from ullava.errors import DataError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
MAX_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that cannot become a question. ``name`` finds it in the original files."""

    name: str
    reason: str


Converted = Iterator[Row | Skipped]


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalSource:
    """One split's original files. ``images`` is the folder of pictures below ``root``, as the descriptor writes it.

    Records name their pictures relative to ``root``. ``part``: the split's name inside the files. ``classes``: names in
    the order of their numbers; class c is stored in a label picture as ``c - label_offset``.
    """

    kind: str
    root: Path
    annotations: Path
    images: str = "."
    companion: Path | None = None
    part: str | None = None
    classes: tuple[str, ...] = ()
    label_offset: int = 0
    ignore_label: int | None = None
    leave_out: frozenset[str] = frozenset()

    def other(self) -> Path:
        """Return the companion file; DataError where the descriptor names none or it is not there."""
        if self.companion is None:
            raise DataError(f"{self.annotations}: layout {self.kind} needs a second file (companion)")
        if not self.companion.exists():
            raise DataError(f"{self.companion}: no such file (it belongs to {self.annotations})")
        return self.companion

    def picture(self, name: str) -> str:
        """Return the name of a picture relative to ``root``."""
        return name if self.images in (".", "") else f"{self.images.rstrip('/')}/{name}"

    def fail(self, reason: str) -> NoReturn:
        """Raise DataError that names the annotations."""
        raise DataError(f"{self.annotations}: {reason}")


def row(record: Mapping[str, Any], image: str, line: int = 0) -> Row:
    """Return the row of one record; ``line`` 0 where the original has no line for it."""
    return Row(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8"), image, line)


def read_json(path: Path, *, nan: bool = False) -> Any:
    """Read a whole JSON file; ``nan`` as for JsonCursor. DataError names file and line."""
    with JsonCursor(path, nan=nan) as cursor:
        value, _ = cursor.value()
        cursor.finish()
    return value


def files_in(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """Return the files of a folder with one of the suffixes by their stem, sorted.

    Raises DataError for no such folder, none of those files, or two of one stem.
    """
    wanted = tuple(suffixes)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in wanted or not path.is_file():
            continue
        if path.stem in found:
            raise DataError(f"{path}: {found[path.stem].name} has the same name; which one is meant?")
        found[path.stem] = path
    if not found:
        raise DataError(f"{folder}: holds no {', '.join(wanted)} file")
    return found


def below(path: Path, root: Path) -> str:
    """Return ``path`` as written below ``root``; DataError where it is not."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError as error:
        raise DataError(f"{path}: has to lie below the data root {root}") from error


def picture_size_wh(path: Path) -> tuple[int, int]:
    """Return width and height from the head of a picture, as it is stored (EXIF is not looked at); DataError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=FORMATS) as picture:
            return picture.size
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such picture") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not a picture that can be read ({error})") from error
