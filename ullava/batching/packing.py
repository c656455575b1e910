"""Which dialogues of a batch share a row.

Only the layout of a batch changes: what is in it, and so every mean over its tokens, masks and boxes, stays. That keeps
the order of a run, its proportions and its resume as they are without packing, and processes in step.
"""

from __future__ import annotations

from collections.abc import Sequence

Rows = list[list[int]]


def packed(lengths: Sequence[int], tokens: int) -> Rows:
    """Share dialogues of ``lengths`` out over rows of at most ``tokens``, or of the longest one where that is more: all
    rows are padded to it anyway.

    First fit, longest first, says how many rows there have to be. The same dialogues are also dealt evenly over so many
    rows, and over one more; what has the fewest places, padding included, is taken. Members of a row are in the order
    of the batch.
    """
    bound = max([tokens, *lengths])
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    fitted = _first_fit(lengths, order, bound)
    ways = [fitted, *(_dealt(lengths, order, count) for count in (len(fitted), len(fitted) + 1))]
    longest = [max((sum(lengths[place] for place in row) for row in rows), default=0) for rows in ways]
    fitting = [(most * len(rows), number) for number, (rows, most) in enumerate(zip(ways, longest, strict=True))
               if most <= bound]  # fmt: skip
    return [sorted(row) for row in ways[min(fitting)[1]]]


def _first_fit(lengths: Sequence[int], order: Sequence[int], bound: int) -> Rows:
    rows: Rows = []
    filled: list[int] = []
    for place in order:
        row = next((number for number, held in enumerate(filled) if held + lengths[place] <= bound), len(rows))
        if row == len(rows):
            rows.append([])
            filled.append(0)
        rows[row].append(place)
        filled[row] += lengths[place]
    return rows


def _dealt(lengths: Sequence[int], order: Sequence[int], count: int) -> Rows:
    """Each to the row that is shortest so far; no row stays empty."""
    rows: Rows = [[] for _ in range(min(count, len(lengths)))]
    held = [0] * len(rows)
    for place in order:
        row = held.index(min(held))
        rows[row].append(place)
        held[row] += lengths[place]
    return rows
