"""Answers that an earlier run has written: which questions they answer, and whether they are of the same run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ullava.errors import DataError, UserError
from ullava.inference.answer_files import answer_record
from ullava.json_lines import parse_line
from ullava.structures import Answer

if TYPE_CHECKING:
    from ullava.inference.batch import Question


def read_answered(source: Path, questions: Sequence[Question], settings: Mapping[str, Any]) -> tuple[list[str], int]:
    """Return the ids of the questions that ``source`` answers, in its order, and the bytes of its whole lines.

    ``settings``: those of the records. A last line that was cut off by a kill does not count.

    Raises:
        DataError: the file cannot be read, or a line is not an answer of ours, or answers a second time.
        UserError: a line answers another question, or is of another model or setting.
    """
    asked = {question.id: answer_record(question, Answer(""), settings) for question in questions}
    same = ("images", "videos", "prompt", "regions", *settings)
    done: dict[str, None] = {}
    whole = 0
    for number, (line, end) in enumerate(_whole_lines(source), start=1):
        whole = end
        try:
            record = parse_line(line)
            known = asked.get(record["id"])
            ours = isinstance(record.get("text"), str) and isinstance(record.get("objects"), list)
        except (ValueError, KeyError, TypeError, AttributeError):
            ours = False
        if not ours:
            raise DataError(f"{source}:{number}: is not an answer of ours; give another --out") from None
        if known is None or any(record.get(key) != known.get(key) for key in same):
            raise UserError(
                f"{source}:{number}: answers another question, or is of another model or setting; give another --out"
            )
        if record["id"] in done:
            raise DataError(f"{source}:{number}: answers '{record['id']}' a second time; give another --out")
        done[record["id"]] = None
    return list(done), whole


def _whole_lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield each line that ends in a newline, with the byte offset behind it."""
    end = 0
    if not path.is_file():
        raise DataError(f"{path}: is not a file; give another --out")
    try:
        with path.open("rb") as file:
            for line in file:
                end += len(line)
                if line.endswith(b"\n"):
                    yield line, end
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give another --out") from None
