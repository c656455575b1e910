"""What every importer makes of an image, and how faults are gathered: all are named, none is passed over."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ullava.data.annotations.file_names import find_below
from ullava.errors import DataError
from ullava.media.images import stored_frame, upright_hw

MAX_SHOWN = 30
REPORT = "import.json"
JOINED = "joined"
CROWD = "crowd regions (iscrowd: 1), which nothing asks for; --crowd-as-instances takes them as instances"
BOXES = "boxes that disagree with their masks, and were replaced by those of the masks"
AMBIGUOUS = "words that are said of several objects of one image"
COPIES = "images that are copies of others, byte for byte, and stay apart; splits may share them"
FORM = "note"
NOTES = {
    JOINED: "joined",
    CROWD: "crowd_regions",
    BOXES: "boxes_of_masks",
    AMBIGUOUS: "ambiguous",
    COPIES: "copies",
    FORM: "form",
}
"""What is told of an import besides faults: the heading of the output and the key in its report."""

ImportLayout = Literal["coco_instances", "label_png", "salient_png", "refer", "grefer"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not in the dataset: ``name`` finds it in what was given."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"

    @classmethod
    def of(cls, name: str, reason: str) -> Fault:
        """Return a fault in words that can be written anywhere: names may hold halves of surrogate pairs."""
        return cls(*(text.encode("utf-8", "backslashreplace").decode("utf-8") for text in (name, reason)))


class Faults:
    """Gathers faults; afterwards the import is refused, or goes on without them where that was asked for.

    ``empty`` are what nothing can be asked about (an image without annotations): no fault, but named. ``notes`` are
    what was done to sound input (joined, measured anew), by heading.
    """

    def __init__(self) -> None:
        self.found: list[Fault] = []
        self.empty: list[Fault] = []
        self.notes: dict[str, list[Fault]] = {heading: [] for heading in NOTES}

    def note(self, heading: str, name: str, reason: str) -> None:
        """Note, under a heading of ``NOTES``, what was done to something that is no fault."""
        self.notes[heading].append(Fault.of(name, reason))

    def leave(self, name: str, reason: str) -> None:
        """Note something that nothing can be asked about."""
        self.empty.append(Fault.of(name, reason))

    def add(self, name: str, reason: str) -> None:
        """Note one fault."""
        self.found.append(Fault.of(name, reason))

    @contextmanager
    def noting(self, name: str) -> Iterator[None]:
        """Note a DataError of the block as a fault of ``name`` and go on behind the block."""
        try:
            yield
        except DataError as error:
            for problem in error.problems:
                line = re.match(rf"{re.escape(name)}(:\d+)?: ", problem)
                self.add(name + (line[1] or "" if line else ""), problem[line.end() if line else 0 :])

    def lines(self) -> list[str]:
        """Return what is told after writing: each kind with its number, then the first of it by name."""
        told = {"left out": self.found, "nothing to ask about": self.empty} | self.notes
        lines: list[str] = []
        for heading, entries in told.items():
            lines += [f"{heading}: {len(entries)}"] if entries and heading != FORM else []
            ahead = "  " if heading in self.notes and heading != FORM else f"{heading}: "
            lines += [f"{ahead}{entry}" for entry in entries[:MAX_SHOWN]]
            more = len(entries) - MAX_SHOWN
            lines += [f"... and {more} more, all in {REPORT}"] if more > 0 else []
        return lines

    def report(self) -> dict[str, list[dict[str, str]]]:
        """Return the same, whole, for the report beside the dataset."""
        told = {"left_out": self.found, "nothing_to_ask_about": self.empty}
        told |= {NOTES[heading]: entries for heading, entries in self.notes.items() if entries}
        return {
            key: [{"name": entry.name, "reason": entry.reason} for entry in entries] for key, entries in told.items()
        }

    def settle(self, skip_bad: bool) -> None:
        """Raise DataError with every fault (up to a number), unless ``skip_bad``."""
        if not self.found or skip_bad:
            return
        lines = shown([str(fault) for fault in self.found])
        raise DataError([*lines, f"nothing was written; --skip-bad leaves these {len(self.found)} out and names them"])


def shown(lines: list[str]) -> list[str]:
    """Return the first of many lines, and how many there are besides."""
    more = len(lines) - MAX_SHOWN
    return [*lines[:MAX_SHOWN], *([f"... and {more} more"] if more > 0 else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One image with what is known about it.

    ``name`` is the image's path below the dataset's ``images/``. ``records`` are of the layout, without their paths;
    for ``coco_instances`` there is one, with ``annotations``, whose ``category_id`` is the place of the class among
    ``Import.classes``, from 1. ``label_png`` is the content of its label image.
    """

    image: Path
    name: str
    size_hw: tuple[int, int]
    records: tuple[dict[str, Any], ...]
    label_png: bytes | None = None


@dataclass(slots=True, kw_only=True)
class Import:
    """All that an importer found. ``classes`` are in the order of their numbers, where they have numbers.

    ``boxes_only``: the records have boxes and no masks.
    """

    layout: ImportLayout
    task: str
    items: list[Item]
    classes: list[str] = field(default_factory=list)
    ignore_label: int | None = None
    boxes_only: bool = False
    faults: Faults = field(default_factory=Faults)


def annotated_size_hw(path: Path, stored_pixels: bool) -> tuple[int, int]:
    """Decode an image whole and return the (height, width) that its annotations have; DataError names the file.

    They were made on the upright image, or on the pixels as they are stored (``turned_upright`` turns them then).
    """
    stored, orientation = stored_frame(path)
    return stored if stored_pixels else upright_hw(stored, orientation)


def image_below(images: Path, name: str) -> Path:
    """Return the path of an image that an annotation names; DataError for a name that leads out of the folder."""
    return find_below(images, name)


def one_file(path: Path) -> str:
    """Return what all ways to write the path of one file share (links; either case, where the file system takes it).

    Raises DataError for what can be no path.
    """
    try:
        state = path.stat()
        return f"{state.st_dev}:{state.st_ino}" if state.st_ino else os.path.realpath(path)
    except OSError:
        return os.path.realpath(path)
    except ValueError as error:
        raise DataError(f"{ascii(str(path))}: cannot be the path of a file ({error})") from error
