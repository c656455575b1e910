"""What every metric shares: it collects one row of plain numbers for each query and sums them up at the end.

A row is JSON; it is what ``predictions.jsonl`` keeps under ``scores``. So the state of a metric is the list of its
rows, shards merge by joining lists, a run that was interrupted rebuilds its state exactly, and an interval is a matter
of drawing rows again. Sums use ``math.fsum``: the result does not depend on the order in which shards arrive.

All results are in percent. A figure without anything to average over (no no-target query: no ``N-acc``) is left out.

A row may have ``groups``, the parts of its data set that the question belongs to (short or long, by size, by skill):
the chief figures are then told for each (``by_group``). ``class`` is what its figures are averaged over, where the
authors of a set want that.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, ClassVar, Self

Row = dict[str, Any]
GROUPS, CLASS = "groups", "class"


class Metric(ABC):
    """Accumulator of rows. Subclasses add ``update(...) -> Row``, which measures one query and keeps its row."""

    resamples: ClassVar[bool] = True
    """Whether an interval may be had by drawing rows again (not where a figure needs the whole set as it is)."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows: list[Row] = list(rows)

    def add(self, row: Row) -> Row:
        """Keep a row that was measured before (by another process, or before an interruption)."""
        self.rows.append(row)
        return row

    def merge(self, other: Self) -> None:
        """Take over the rows of another accumulator of the same kind."""
        if type(other) is not type(self):
            raise TypeError(f"{type(other).__name__} cannot be merged into {type(self).__name__}")
        self.rows.extend(other.rows)

    def state(self) -> list[Row]:
        """Return the rows, ready for JSON; ``type(self)(rows)`` is the same accumulator again."""
        return list(self.rows)

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Return the figures, in percent; empty when there are no rows."""

    def details(self) -> dict[str, float]:
        """Return figures of parts (per class, per kind of question), in percent; empty where there are no parts."""
        return {}

    def left_out(self) -> dict[str, str]:
        """Return why figures of this kind are not defined for these rows, by name; empty where all are."""
        return {}

    def curve(self) -> dict[str, Any]:
        """Return the risk-coverage curve (``ullava.evaluation.metrics.selective``); empty where there is none."""
        return {}


def by_group(metric: Metric, chief: Iterable[str]) -> dict[str, float]:
    """Return the ``chief`` figures of the rows of each group, as far as they are defined: ``short gIoU`` and so on."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in metric.rows:
        for name in row.get(GROUPS, ()):
            groups[name].append(row)
    wanted = tuple(chief)
    computed = {name: type(metric)(rows).compute() for name, rows in sorted(groups.items())}
    return {f"{name} {one}": found[one] for name, found in computed.items() for one in wanted if one in found}


def column(rows: Iterable[Row], name: str) -> list[float]:
    """Return one field of all rows."""
    return [row[name] for row in rows]


def put_mean(figures: dict[str, float], name: str, values: Iterable[float]) -> None:
    """Write the mean of fractions as a percentage, or nothing if there are none."""
    kept = list(values)
    if kept:
        figures[name] = 100.0 * math.fsum(kept) / len(kept)


def put_ratio(figures: dict[str, float], name: str, parts: Iterable[float], wholes: Iterable[float]) -> None:
    """Write sum of parts over sum of wholes as a percentage, or nothing if the wholes sum to zero."""
    whole = math.fsum(wholes)
    if whole > 0:
        figures[name] = 100.0 * math.fsum(parts) / whole
