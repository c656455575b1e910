"""What every importer makes of a picture, and how faults are gathered: all are named, none is passed over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ullava.data.images import read_image_rgb_u8
from ullava.errors import DataError

MAX_SHOWN = 30

ImportLayout = Literal["coco_instances", "label_png", "salient_png", "refer", "grefer"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not in the dataset: ``name`` finds it in what was given."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Faults:
    """Gathers faults; afterwards the import is refused, or goes on without them where that was asked for.

    ``empty`` are what nothing can be asked about (a picture without annotations): no fault, but named.
    """

    def __init__(self) -> None:
        self.found: list[Fault] = []
        self.empty: list[Fault] = []

    def leave(self, name: str, reason: str) -> None:
        """Note something that nothing can be asked about."""
        self.empty.append(Fault(name, reason))

    def add(self, name: str, reason: str) -> None:
        """Note one fault."""
        self.found.append(Fault(name, reason))

    @contextmanager
    def noting(self, name: str) -> Iterator[None]:
        """Note a DataError of the block as a fault of ``name`` and go on behind the block."""
        try:
            yield
        except DataError as error:
            for problem in error.problems:
                self.add(name, problem.removeprefix(f"{name}: "))

    def settle(self, skip_bad: bool) -> None:
        """Raise DataError with every fault (up to a number), unless ``skip_bad``."""
        if not self.found or skip_bad:
            return
        lines = [str(fault) for fault in self.found[:MAX_SHOWN]]
        more = len(self.found) - MAX_SHOWN
        lines += [f"... and {more} more"] if more > 0 else []
        raise DataError([*lines, f"nothing was written; --skip-bad leaves these {len(self.found)} out and names them"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One picture with what is known about it.

    ``name`` is the picture's path below the dataset's ``images/``. ``records`` are of the layout, without their paths;
    for ``coco_instances`` there is one, with ``annotations``. ``label_png`` is the content of its label picture.
    """

    picture: Path
    name: str
    size_hw: tuple[int, int]
    records: tuple[dict[str, Any], ...]
    label_png: bytes | None = None


@dataclass(slots=True, kw_only=True)
class Import:
    """All that an importer found. ``classes`` are in the order of their numbers, where they have numbers."""

    layout: ImportLayout
    task: str
    items: list[Item]
    classes: list[str] = field(default_factory=list)
    categories: list[dict[str, Any]] = field(default_factory=list)
    ignore_label: int | None = None
    faults: Faults = field(default_factory=Faults)


def upright_size_hw(path: Path) -> tuple[int, int]:
    """Decode a picture whole and return its height and width as the reader will see it; DataError names the file."""
    height, width = read_image_rgb_u8(path).shape[:2]
    return height, width
