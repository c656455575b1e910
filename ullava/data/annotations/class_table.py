"""How much of each image every class covers, counted once for an annotation file and kept beside its converted form.

What questions about classes are chosen by: which classes are there, which cover enough, which may be asked as absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ullava.atomic_write import whole
from ullava.data.annotations.class_names import class_key
from ullava.data.annotations.store import CLASSES_SUFFIX, AnnotationStore
from ullava.errors import DataError, SampleError

PROGRESS_RECORDS = 2000
_COLUMNS = ("area", "box", "unmasked", "objects", "crowd")


class ClassRow(NamedTuple):
    """One class of one record; areas are shares of the image.

    ``area``: the union of the masks of its objects, crowd regions left out. ``box``: the box of its object where it has
    one alone, else 0. ``unmasked``: the boxes of its objects that have no mask, added up. ``objects``: how many it has
    that are no crowd region. ``crowd``: whether it has a crowd region.
    """

    name: str
    area: float
    box: float
    unmasked: float
    objects: int
    crowd: bool


@dataclass(frozen=True, slots=True, eq=False)
class ClassTable:
    """The rows of all records; those of record r are ``starts[r]`` to ``starts[r + 1]``.

    ``names`` are the classes that occur, ``name`` [m] the place of each row's in it; the columns of ``values`` [m, 5]
    are the rest of ClassRow. ``bad`` bool [n]: records in which the classes could not be counted; reading one says why.
    """

    names: tuple[str, ...]
    starts: NDArray[np.int64]
    name: NDArray[np.int32]
    values: NDArray[np.float32]
    bad: NDArray[np.bool_]

    def rows(self, record: int) -> list[ClassRow]:
        """Return the classes of a record in the order of the annotation."""
        first, last = int(self.starts[record]), int(self.starts[record + 1])
        return [
            ClassRow(self.names[number], area, box, unmasked, int(objects), bool(crowd))
            for number, (area, box, unmasked, objects, crowd) in zip(
                self.name[first:last].tolist(), self.values[first:last].tolist(), strict=True
            )
        ]

    def images_of(self, rows: NDArray[np.bool_]) -> dict[str, int]:
        """Return how many of the ``rows`` [m] that are marked each class has, by the key of its name."""
        counts = np.bincount(self.name[rows], minlength=len(self.names))
        return {class_key(name): int(count) for name, count in zip(self.names, counts, strict=True)}

    def column(self, name: str) -> NDArray[np.float32]:
        """Return one of area, box, unmasked, objects, crowd for all rows, [m]."""
        return self.values[:, _COLUMNS.index(name)]


def class_table(store: AnnotationStore, reader: str, measure: Callable[[int], Sequence[ClassRow]]) -> ClassTable:
    """Return the table of ``store``, counted by ``measure`` (a record's number -> its rows) the first time.

    ``reader`` names who counts. Raises DataError where the table cannot be kept.
    """
    path = store.arrow.with_name(f"{store.arrow.stem}.{reader}{CLASSES_SUFFIX}")
    known = _read(path, len(store))
    if known is not None:
        return known
    table = _counted(len(store), store.source.name, measure)
    _keep(table, path)
    return table


def _counted(records: int, name: str, measure: Callable[[int], Sequence[ClassRow]]) -> ClassTable:
    places: dict[str, int] = {}
    names: list[str] = []
    starts, numbers, values = [0], [], []
    bad = np.zeros(records, dtype=np.bool_)
    counting: Iterable[int] = tqdm(
        range(records), desc=f"counting classes of {name}", unit="record", disable=records < PROGRESS_RECORDS
    )
    for record in counting:
        try:
            rows = measure(record)
        except SampleError:
            bad[record], rows = True, ()
        for row in rows:
            key = class_key(row.name)
            if key not in places:
                places[key] = len(names)
                names.append(row.name)
            numbers.append(places[key])
            values.append(row[1:])
        starts.append(len(numbers))
    return ClassTable(
        tuple(names),
        np.array(starts, dtype=np.int64),
        np.array(numbers, dtype=np.int32),
        np.array(values, dtype=np.float32).reshape(-1, len(_COLUMNS)),
        bad,
    )


def _read(path: Path, records: int) -> ClassTable | None:
    """Return a table that was kept; None where there is none, or none of this file."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            table = ClassTable(tuple(kept["names"].tolist()), kept["starts"], kept["name"], kept["values"], kept["bad"])
    except (OSError, ValueError, KeyError):
        return None
    return table if len(table.bad) == records and len(table.starts) == records + 1 else None


def _keep(table: ClassTable, path: Path) -> None:
    try:
        with whole(path) as unfinished, unfinished.open("wb") as file:
            np.savez(
                file,
                names=np.array(table.names, dtype=np.str_),
                starts=table.starts,
                name=table.name,
                values=table.values,
                bad=table.bad,
            )
    except OSError as error:
        raise DataError(f"{path}: the counts of classes cannot be kept here ({error.strerror})") from error
