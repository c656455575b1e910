"""The class names of a dataset folder: one name, one class, in every split and however it is spelled or numbered."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ullava.data.annotations.class_names import class_key
from ullava.errors import DataError, did_you_mean
from ullava.text.phrases import name_fault


class ClassList:
    """Class names in the order of their numbers, which start at 1. The first spelling of a name stays."""

    def __init__(self, names: Iterable[str], *, closed: bool) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._closed = False
        for name in names:
            self.number(name)
        self._closed = closed

    def number(self, name: str) -> int:
        """Return the number of a class; a new name is taken in, or is a DataError where the list is closed."""
        key = class_key(name)
        if key not in self._numbers:
            if self._closed:
                near = did_you_mean(name, self.names) or f"; {len(self.names)} are known"
                raise DataError(f"class '{name}' is not among the dataset's classes{near} (--classes '{name}' adds it)")
            self.names.append(name)
            self._numbers[key] = len(self.names)
        return self._numbers[key]

    def name(self, number: int) -> str:
        """Return the name of a class by its number (from 1)."""
        return self.names[number - 1]


def read_class_names(given: str) -> list[str]:
    """Read ``--classes``: a file with one name a line, or names between commas. DataError for blanks and doubles."""
    try:
        # os.path's test says no to a list of names that is too long for a path; that of pathlib raises.
        text = Path(given).read_text(encoding="utf-8-sig") if os.path.isfile(given) else None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--classes {given}: cannot be read ({error})") from error
    names = [name.strip() for name in (given.split(",") if text is None else text.splitlines())]
    if text is not None:
        names = [name for name in names if name]
    if not names or not all(names):
        raise DataError(f"--classes {given}: a file with one name a line, or names between commas, none of them blank")
    problems = [f"--classes {given}: {name!r:.60} {fault}" for name in names if (fault := name_fault(name))]
    if problems:
        raise DataError(problems)
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(class_key(name), name)
        if other is not name:
            raise DataError(f"--classes {given}: '{other}' and '{name}' are one class; name it once")
    return names


def known_classes(existing: Sequence[str], given: str | None) -> list[str] | None:
    """Return the names that may occur: those that the folder has, then those that are given; None where none are."""
    names = ClassList(existing, closed=False)
    for name in read_class_names(given) if given is not None else ():
        names.number(name)
    return names.names or None
