"""Short answers: the normal form of the answer is one of the accepted ones (``wording.normal_answer``); perplexity."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable

from ullava.evaluation.metrics.rows import Metric, Row, column, put_mean
from ullava.text.normalization import normal_answer

MOST_NATS = 700.0
"""Above this a power of e is no number any more."""
CHOICE = "choice"
"""The kind of question that offers lettered choices; the answer may go on to explain itself."""
_LETTER = re.compile(r"\banswer is \(?([A-J])\b", re.IGNORECASE)


def chosen_letter(answer: str) -> str:
    """Return the normal form of the letter in ``The answer is B. ...``; of the whole answer where it says no such."""
    found = _LETTER.search(answer)
    return normal_answer(found.group(1) if found else answer)


class ShortAnswers(Metric):
    """VQA and text tasks. Rows: ``right``, ``kind`` (of question, may be empty)."""

    def update(self, answer: str, accepted: Iterable[str], kind: str = "") -> Row:
        """Measure one answer in plain words. Raises ValueError if no answer is accepted."""
        known = {normal_answer(text) for text in accepted} - {""}
        if not known:
            raise ValueError("a question needs at least one accepted answer")
        given = chosen_letter(answer) if kind == CHOICE else normal_answer(answer)
        return self.add({"right": given in known, "kind": kind})

    def compute(self) -> dict[str, float]:
        """Return ``accuracy``."""
        figures: dict[str, float] = {}
        put_mean(figures, "accuracy", column(self.rows, "right"))
        return figures

    def details(self) -> dict[str, float]:
        """Return the accuracy of each kind of question, in percent."""
        kinds: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            if row["kind"]:
                kinds[row["kind"]].append(row)
        figures: dict[str, float] = {}
        for kind in sorted(kinds):
            put_mean(figures, kind, column(kinds[kind], "right"))
        return figures


class ReadAnswers(ShortAnswers):
    """Text tasks, whose reference answers were also read to the model.

    Rows may also have ``nats``, the sum of -ln p of the reference answer's tokens, and ``tokens``, their number.
    """

    def compute(self) -> dict[str, float]:
        """Return ``accuracy`` and ``perplexity``, e to the mean of -ln p over all tokens: 1 or more, no percentage."""
        figures = super().compute()
        read = [row for row in self.rows if row.get("tokens")]
        if read:
            nats, tokens = math.fsum(column(read, "nats")), math.fsum(column(read, "tokens"))
            figures["perplexity"] = math.exp(min(nats / tokens, MOST_NATS))
        return figures
