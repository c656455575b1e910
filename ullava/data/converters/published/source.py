"""What all conversions of original files share: where the files are, and how a record is left out with a reason."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ullava.data.annotations.encodings import UTF_8, read_text
from ullava.data.annotations.file_names import utf8_name
from ullava.data.annotations.json_stream import JsonCursor, Row
from ullava.errors import DataError, did_you_mean
from ullava.media.images import stored_frame_of_head, upright_hw
from ullava.resources import is_stray

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
MAX_PROBLEMS = 20
EVERY_PART = "all"
"""As ``part``: every split of the file."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that cannot become a question. ``name`` finds it in the original files."""

    name: str
    reason: str


Converted = Iterator[Row | Skipped]


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalSource:
    """One split's original files. ``images`` is the folder of images below ``root``, as the descriptor writes it.

    Records name their images relative to ``root``. ``part``: the split's name inside the files, "all" for every one.
    ``first_text``: of several texts of an image the first alone counts. ``classes``: names in the order of their
    numbers; class c is stored in a label image as ``c - label_offset``.
    """

    kind: str
    root: Path
    annotations: Path
    images: str = "."
    companion: Path | None = None
    part: str | None = None
    first_text: bool = False
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

    def image(self, name: str) -> str:
        """Return the name of an image relative to ``root``."""
        return name if self.images in (".", "") else f"{self.images.rstrip('/')}/{name}"

    def listed(self) -> dict[str, int] | None:
        """Return the first word of each line of ``companion``, the images of this split, with its line.

        None where the descriptor names no list. Raises DataError for a list that is not there or holds no name.
        """
        if self.companion is None:
            return None
        lines = enumerate(read_text(self.other()).split("\n"), start=1)
        names = {text.split()[0]: line for line, text in lines if text.strip()}
        if not names:
            raise DataError(f"{self.companion}: lists no image")
        return names

    def fail(self, reason: str) -> NoReturn:
        """Raise DataError that names the annotations."""
        raise DataError(f"{self.annotations}: {reason}")


def chosen_part(source: OriginalSource, entries: Iterable[Any], what: str) -> str | None:
    """Return the split of the file that is wanted, None for all of it; ``what`` is how messages call its entries.

    Raises DataError, with the splits and how many entries each has, for several of them and no choice, and for a
    choice that is not there. Splits that are no text are left to ``is_in_part``.
    """
    given = [entry.get("split") for entry in entries if isinstance(entry, Mapping)]
    counts = Counter(split for split in given if split is None or isinstance(split, str))
    named = [split for split in counts if split is not None]
    told = [f"{'without a split' if split is None else split} {count}" for split, count in counts.items()]
    told += [f"with a split that is no text {len(given) - counts.total()}"] if len(given) > counts.total() else []
    listed = ", ".join(told) or "none"
    if source.part in named:
        return source.part
    if source.part is not None and source.part != EVERY_PART:
        source.fail(f"no {what} of the split '{source.part}'{did_you_mean(source.part, named)} (there are: {listed})")
    if source.part is None and len(counts) > 1:
        source.fail(
            f"holds several splits ({listed}); say which one (--part NAME), or --part {EVERY_PART} for them all"
        )
    return None


def is_in_part(entry: Any, part: str | None) -> bool:
    """Whether an entry belongs to what ``chosen_part`` returned; TypeError where it, or its split, is malformed."""
    if not isinstance(entry, Mapping):
        raise TypeError(f"an object is expected, not {type(entry).__name__}")
    split = entry.get("split")
    if split is not None and not isinstance(split, str):
        raise TypeError(f"'split' has to be text, not {type(split).__name__}")
    return part is None or split == part


def row(record: Mapping[str, Any], image: str, line: int = 0) -> Row:
    """Return the row of one record; ``line`` 0 where the original has no line for it."""
    return Row(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8"), image, line)


def read_json(path: Path, *, nan: bool = False, encoding: str = UTF_8) -> Any:
    """Read a whole JSON file; ``nan`` as for JsonCursor. DataError names file and line."""
    with JsonCursor(path, nan=nan, encoding=encoding) as cursor:
        value, _ = cursor.value()
        cursor.finish()
    return value


def files_in(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """Return the files of a folder with one of the suffixes by their stem, sorted.

    Stems are in Unicode's NFC, so that files of different machines meet; what macOS and Windows leave in folders is
    passed over. Raises DataError for no such folder, none of those files, two of one stem, or a name that is no text.
    """
    wanted = tuple(suffixes)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in wanted or is_stray(path) or not path.is_file():
            continue
        utf8_name(path)
        stem = unicodedata.normalize("NFC", path.stem)
        if stem in found:
            accents = _accents(found[stem], path)
            raise DataError(f"{path}: {found[stem].name} has the same name{accents}; which one is meant?")
        found[stem] = path
    if not found:
        raise DataError(f"{folder}: holds no {', '.join(wanted)} file")
    return found


def _accents(first: Path, second: Path) -> str:
    if first.stem == second.stem:
        return ""
    return f" but for how accents are written ({ascii(first.name)} and {ascii(second.name)})"


def below(path: Path, root: Path) -> str:
    """Return ``path`` as written below ``root``; DataError where it is not."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError as error:
        raise DataError(f"{path}: has to lie below the data root {root}") from error


def image_size_wh(path: Path, *, stored: bool = False) -> tuple[int, int]:
    """Return width and height from the head of an image, turned upright by its EXIF orientation; DataError.

    ``stored``: not turned, as masks and label images are read.
    """
    stored_hw, orientation = stored_frame_of_head(path)
    height, width = stored_hw if stored else upright_hw(stored_hw, orientation)
    return width, height
