"""Label images, asked by class as expressions are: task ``res`` in the place of ``semantic``."""

from __future__ import annotations

from collections.abc import Sequence

from ullava.data.annotations.class_names import class_key
from ullava.data.annotations.class_table import ClassRow
from ullava.data.readers.base import QAPair
from ullava.data.readers.class_questions import ClassQuestions
from ullava.data.readers.label_png import LabelPngReader
from ullava.data.readers.record import Record


class LabelClassReader(ClassQuestions, LabelPngReader):
    """All pixels of a class and the box around them.

    Absent is a class of the descriptor that the record does not list. Pixels of the ignore label are in
    ``truth["ignore_mask"]`` of queries.
    """

    tasks = ("res",)

    def class_list(self) -> Sequence[str]:
        """Return the classes of the descriptor that may be asked for."""
        return self.origin.class_names

    def measure(self, record: Record) -> list[ClassRow]:
        """Count the pixels of the classes that the record lists."""
        labels = self.labels(record)
        areas = {name: self.pixels(record, name, numbers, labels).mean() for name, numbers in self._named(record)}
        return [ClassRow(name, float(area), 0.0, 0.0, 1, False) for name, area in areas.items()]

    def asks(self, record: Record, names: Sequence[str]) -> list[QAPair]:
        """Return a question for each of the classes called ``names``."""
        if not names:
            return []
        known, labels = {class_key(name): (name, numbers) for name, numbers in self._named(record)}, self.labels(record)
        return [self.ask(record, *known[class_key(name)], labels) for name in names]

    def _named(self, record: Record) -> list[tuple[str, list[int]]]:
        """Return the classes of a record with the numbers that bear their name."""
        named: dict[str, tuple[str, list[int]]] = {}
        for name, number in self.classes(record):
            named.setdefault(class_key(name), (name, []))[1].append(number)
        return list(named.values())
