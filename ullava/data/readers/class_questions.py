"""One question for each class of an image: its truth is all of the class, as one region, or its only object's box.

``min_area`` is the least share of the image that a class has to cover to be asked: with its masks (task ``res``), with
the box of its object (task ``rec``). A class below it is not asked, and it is not absent either.

``absent`` is the share of questions about a class of the class list that the image does not show. Such a class is drawn
by the square root of how often it is asked where it is there (and once more, so that each can be drawn): were all drawn
alike, a rare word alone would tell that there is no such thing. In training each question is absent with this
probability; in evaluation so many are added to each image, by lot, which its name decides. Training answers it in
words, or by an empty mask (``absent_as``), from which a mask head learns to tell what is there.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ullava.data.annotations.class_names import class_key
from ullava.data.annotations.class_table import ClassRow, ClassTable, class_table
from ullava.data.annotations.text_lengths import RecordLengths
from ullava.data.readers.base import Origin, QAPair, Reader, draw, query, training_turns
from ullava.data.readers.record import Record
from ullava.errors import ConfigError, DataError
from ullava.structures import Region, Sample


@dataclass(frozen=True, slots=True)
class Shown:
    """What a record shows: the classes that are asked, by name, and the keys of all that are there."""

    asked: tuple[str, ...]
    there: frozenset[str]


class ClassQuestions(Reader):
    """An index is an image in which a class can be asked. What a layout's records look like, its own reader says."""

    names_classes = True
    speaks_of_absent = True
    default_template = "UNION.json"

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self._table = class_table(origin.store, type(self).__name__, lambda n: self.measure(self.record(n, "")))
        self._asked = self._askable(self._table)
        records = np.repeat(np.arange(len(origin.store)), np.diff(self._table.starts))
        able = self._table.bad.copy()
        able[records[self._asked]] = True
        self._records: NDArray[np.int64] = np.flatnonzero(able[: self._count])
        if not len(self._records):
            raise DataError(f"{origin.store.source}: no image shows a class that can be asked (min_area {self._least})")
        if origin.absent and not self._listed:
            raise ConfigError(f"absent: dataset {origin.id} lists no classes, so none can be missing from an image")

    @abstractmethod
    def measure(self, record: Record) -> list[ClassRow]:
        """Count the classes of a record. Raises SampleError for a wrong one."""

    @abstractmethod
    def asks(self, record: Record, names: Sequence[str]) -> list[QAPair]:
        """Return the questions about classes that the record shows, in the order of ``names``."""

    @abstractmethod
    def class_list(self) -> Sequence[str]:
        """Return the classes that the annotations look for."""

    def things(self, record: Record) -> tuple[Region, ...]:
        """Return every object of an image of which all objects are annotated; none where a layout does not tell."""
        return ()

    @property
    def whole_images(self) -> bool:
        """An index is no number of a record."""
        return True

    @property
    def may_lack_targets(self) -> bool:
        """Whether absent classes are asked."""
        return self.origin.absent > 0

    def __len__(self) -> int:
        """Return the number of images in which a class can be asked."""
        return len(self._records)

    def sources(self, index: int) -> str:
        """Return ``file:line: record n``."""
        return self.origin.store.where(int(self._records[index]))

    def name(self, index: int) -> str:
        """Return ``dataset/split/record``: the record's number in its file, whatever ``min_area`` is."""
        return f"{self.id}/{self.split}/{self._records[index]}"

    def told(self) -> list[str]:
        """Return how many classes are asked, and why others are not."""
        used = np.arange(len(self._asked)) < self._table.starts[self._count]
        asked = self._asked & used
        names = sum(count > 0 for count in self._table.images_of(asked).values())
        lines = [f"{np.count_nonzero(asked)} questions about {names} classes"]
        others, crowds, blocked = used & ~asked, self._table.column("objects") == 0, self._blocked(self._table)
        reasons = {
            f"below min_area {self._least}": others & ~crowds & ~blocked,
            "of several objects" if self.task == "rec" else "with objects that have a box alone": (
                others & ~crowds & blocked
            ),
            "of crowd regions alone": others & crowds,
        }
        left_out = [f"{np.count_nonzero(rows)} {why}" for why, rows in reasons.items() if rows.any()]
        lines += [f"not asked: {', '.join(left_out)}"] if left_out else []
        wrong = int(np.sum(self._table.bad[: self._count]))
        lines += [f"{wrong} records are wrong, which reading them tells"] if wrong else []
        if self.origin.absent:
            lines.append(f"{self.origin.absent:.0%} of the questions about one of {len(self._listed)} that is absent")
        return lines

    def record_lengths(self) -> RecordLengths:
        """Return what the images show and say."""
        sizes = super().record_lengths()
        kept = self._records
        return RecordLengths(sizes.kinds[kept], sizes.characters[kept], sizes.questions[kept])

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return one image with up to ``turns`` questions, each about an absent class with probability ``absent``."""
        record = self.record(int(self._records[index]), self.name(index))
        shown = self._shown(index, record)
        chosen = [shown.asked[place] for place in draw(rng, len(shown.asked), self.origin.turns)]
        missing: list[str] = []
        if self.origin.absent:
            missing = self._missing(shown, rng, int(np.sum(rng.random(len(chosen)) < self.origin.absent)))
        there = self.asks(record, chosen[len(missing) :])
        asks = [*there, *self._absent_asks(missing)]
        if missing:
            truth = (there or self.asks(record, shown.asked[:1]))[0].truth
            size_hw = (int(truth["height"]), int(truth["width"]))
            asks = [*there, *(self.answered_absent(ask, size_hw) for ask in asks[len(there) :])]
            asks = [asks[place] for place in draw(rng, len(asks), 0)]
        turns = training_turns(asks, self.templates(), rng)
        truth = there[0].truth if there else {}
        known = {key: truth[key] for key in ("height", "width", "image_id") if key in truth}
        things = self.things(record) if self.origin.exhaustive else ()
        return Sample(record.sample, self.id, self.task, (self.image(record),), turns, known, things)

    def queries(self, index: int) -> list[Sample]:
        """Return one query a class, then those about absent ones; ``truth`` has ``class``, and ``absent`` is true."""
        record = self.record(int(self._records[index]), self.name(index))
        image, shown = self.image(record), self._shown(index, record)
        asks = self.asks(record, shown.asked)
        if self.origin.absent:
            image_name = self.origin.store.image_name(int(self._records[index])).strip()
            digest = hashlib.sha256(f"{self.id}/{self.split}/{image_name}".encode()).digest()
            rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
            wanted = len(asks) * self.origin.absent / (1 - self.origin.absent)
            missing = self._missing(shown, rng, int(wanted + rng.random()))
            size = {key: asks[0].truth[key] for key in ("height", "width")}
            asks += [replace(ask, truth={**ask.truth, **size}) for ask in self._absent_asks(missing)]
        return [query(self, f"{record.sample}/{place}", image, ask) for place, ask in enumerate(asks)]

    @property
    def _least(self) -> float:
        return self.origin.min_area

    def _askable(self, table: ClassTable) -> NDArray[np.bool_]:
        """Mark the rows [m] that are asked."""
        share = table.column("box" if self.task == "rec" else "area")
        return (share > 0) & (share >= self._least) & ~self._blocked(table)

    def _blocked(self, table: ClassTable) -> NDArray[np.bool_]:
        """Mark the rows [m] that cannot be asked, however large they are.

        ``rec``: several objects, or a crowd of them. ``res``: objects without a mask, which would be missing from the
        truth, unless their boxes together are too small to be asked themselves.
        """
        if self.task == "rec":
            return (table.column("objects") != 1) | (table.column("crowd") > 0)
        unmasked = table.column("unmasked")
        return (unmasked > 0) & (unmasked >= self._least)

    def _shown(self, index: int, record: Record) -> Shown:
        number = int(self._records[index])
        if self._table.bad[number]:
            self.measure(record)
            record.fail("could not be read when its classes were counted; remove the cache of its file to count again")
        rows = self._table.rows(number)
        marks = self._asked[self._table.starts[number] : self._table.starts[number + 1]].tolist()
        asked = tuple(row.name for row, mark in zip(rows, marks, strict=True) if mark)
        return Shown(asked, frozenset(class_key(row.name) for row in rows))

    @cached_property
    def _listed(self) -> dict[str, str]:
        """The class list: key -> name, each once."""
        return {class_key(name): name for name in reversed(self.class_list())}

    @cached_property
    def _rates(self) -> dict[str, float]:
        """How often each class of the list is drawn where it is absent."""
        counts = self._table.images_of(self._asked)
        return {key: float(np.sqrt(1 + counts.get(key, 0))) for key in sorted(self._listed)}

    def _missing(self, shown: Shown, rng: np.random.Generator, count: int) -> list[str]:
        """Draw up to ``count`` different classes of the list that the record does not show."""
        free = [key for key in self._rates if key not in shown.there]
        count = min(count, len(free))
        if not count:
            return []
        rates = np.array([self._rates[key] for key in free])
        places = rng.choice(len(free), size=count, replace=False, p=rates / rates.sum())
        return [self._listed[free[place]] for place in places.tolist()]

    @staticmethod
    def _absent_asks(names: Sequence[str]) -> list[QAPair]:
        return [QAPair(name, (), {"class": name, "absent": True}, absent=name) for name in names]
