"""Reads long JSON files record by record, with bounded memory and with file, line and record number in every error."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ullava.data.annotations.encodings import LONGEST_MARK, UTF_8, StreamDecoder
from ullava.errors import DataError
from ullava.given_files import open_plain

READ_BYTES = 1 << 20
MAX_RECORD_CHARS = 256 << 20
MAX_DEPTH = 64
"""So many lists and objects may lie inside each other: records of all layouts have less than ten."""
_BLANK = re.compile(r"[ \t\n\r]*")
_NEAR_END = 16


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_DECODER_WITH_NAN = json.JSONDecoder()


def fault_of_value(value: Any, text: str) -> str:
    """Return why a value that was read from the JSON ``text`` cannot be used, '' where it can.

    Values that are nested more than ``MAX_DEPTH`` deep cannot be read everywhere, and half a surrogate pair (an escape
    such as ``\\ud83d`` alone) cannot be written as text.
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH and "\\ud" not in text and "\\uD" not in text:
        return ""
    left: list[tuple[Any, str, int]] = [(value, "", 1)] if _has_inside(value) else []
    while left:
        here, place, depth = left.pop()
        if isinstance(here, str):
            if any("\ud800" <= character <= "\udfff" for character in here):
                return f"half of a surrogate pair in the text{f' of {place}' if place else ''}"
            continue
        if depth > MAX_DEPTH:
            return f"nested too deeply (more than {MAX_DEPTH} lists and objects inside each other) at {place[:40]}"
        if isinstance(here, dict):
            left += [(key, f"a key of {place or 'the record'}", depth) for key in here]
            parts = [(part, f"{place}.{key}".lstrip(".")) for key, part in here.items() if _has_inside(part)]
        else:
            parts = [(part, f"{place}[{number}]") for number, part in enumerate(here) if _has_inside(part)]
        left += [(part, name, depth + 1) for part, name in reversed(parts)]
    return ""


def is_finite_number(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def read_json_text(path: Path, text: str) -> Any:
    """Return the value of a whole JSON text that is in memory; DataError names ``path`` and line."""
    try:
        value = _DECODER_WITH_NAN.decode(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON: {error.msg} (is it cut off?)") from error
    except RecursionError as error:
        raise DataError(f"{path}: not valid JSON that can be read: nested too deeply") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    fault = fault_of_value(value, text)
    if fault:
        raise DataError(f"{path}: {fault}")
    return value


def parse_record_text(text: str) -> dict[str, Any]:
    """Return the record whose JSON ``text`` is; DataError, without a place, for what is none."""
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise DataError("not valid JSON that can be read: nested too deeply") from error
    except ValueError as error:
        raise DataError(f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"a record is an object {{...}}, not {type(value).__name__}")
    fault = fault_of_value(value, text)
    if fault:
        raise DataError(fault)
    return value


def _has_inside(value: Any) -> bool:
    return isinstance(value, str | list | dict)


class JsonRecord(NamedTuple):
    """One record: its number in the list (from 0), the line on which it starts (from 1), its text and its value."""

    number: int
    line: int
    text: str
    value: dict[str, Any]


class Row(NamedTuple):
    """What the store keeps of a record: its JSON text, its image ('' without one) and its line in the source."""

    record: bytes
    image: str
    line: int


class JsonCursor:
    """Walks through one JSON text and holds no more of it than the value in hand.

    ``nan``: NaN and Infinity, which are no JSON but which programs write, come out as numbers; who reads them has
    to look.
    """

    def __init__(
        self,
        path: Path,
        on_read: Callable[[int], object] | None = None,
        *,
        encoding: str = UTF_8,
        nan: bool = False,
    ) -> None:
        self.path = path
        self.where = ""
        self._on_read = on_read
        self._stream = StreamDecoder(path, encoding)
        self._decoder = _DECODER_WITH_NAN if nan else _DECODER
        self._text = ""
        self._at = 0
        self._line = 1
        self._ended = False
        self._file = open_plain(path)

    def __enter__(self) -> JsonCursor:
        """Return the cursor itself; the file closes on the way out."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()

    @property
    def line(self) -> int:
        """The line (from 1) of the next character."""
        return self._line

    def fail(self, reason: str, line: int | None = None) -> DataError:
        """Return an error that says where the cursor stands."""
        place = f" {self.where}:" if self.where else ""
        return DataError(f"{self.path}:{self._line if line is None else line}:{place} {reason}")

    def peek(self) -> str:
        """Skip white space; return the next character without taking it, '' at the end of the file."""
        while True:
            match = _BLANK.match(self._text, self._at)
            self._advance(match.end() if match else self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, expected: str) -> None:
        """Take one character that has to be there."""
        found = self.peek()
        if found != expected:
            raise self.fail(f"expected '{expected}', found {self._name(found)}")
        self._advance(self._at + 1)

    def value(self) -> tuple[Any, str]:
        """Take one whole JSON value; return it with its text."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - _NEAR_END
                if cut and not self._ended and len(self._text) - self._at < MAX_RECORD_CHARS:
                    self._more()
                    continue
                line = self._line + self._text.count("\n", self._at, error.pos)
                ending = "the file ends inside this value: " if cut and self._ended else ""
                raise self.fail(f"not valid JSON: {ending}{error.msg}", line) from error
            except RecursionError as error:
                raise self.fail("not valid JSON that can be read: nested too deeply") from error
            except ValueError as error:
                raise self.fail(f"not valid JSON: {error}") from error
            if end < len(self._text) or not self._more():
                break
        text = self._text[self._at : end]
        fault = fault_of_value(value, text)
        if fault:
            raise self.fail(fault)
        self._advance(end)
        return value, text

    def elements(self) -> Iterator[tuple[int, int, Any, str]]:
        """Take a list element by element: number (from 0), line, value, text."""
        self.take("[")
        number = 0
        while self.peek() != "]":
            if number:
                self.take(",")
                self.peek()
            line = self._line
            self.where = f"record {number}"
            value, text = self.value()
            yield number, line, value, text
            number += 1
        self.where = ""
        self.take("]")

    def members(self) -> Iterator[str]:
        """Take an object key by key; who is given a key has to take its value before the next one."""
        seen: set[str] = set()
        self.take("{")
        while self.peek() != "}":
            if seen:
                self.take(",")
            key, _ = self.value()
            if not isinstance(key, str) or key in seen:
                raise self.fail(f"key {key!r} is there twice" if isinstance(key, str) else "a key is a string")
            seen.add(key)
            self.take(":")
            self.peek()
            yield key
        self.take("}")

    def finish(self) -> None:
        """Raise unless nothing but white space is left."""
        found = self.peek()
        if found:
            raise self.fail(f"text after the end of the JSON value: {self._name(found)}")

    def _name(self, character: str) -> str:
        return f"'{character}'" if character else "the end of the file (is it cut off?)"

    def _advance(self, to: int) -> None:
        self._line += self._text.count("\n", self._at, to)
        self._at = to

    def _more(self) -> bool:
        """Read on, at least as much as is in hand so that long values are not scanned too often."""
        if self._ended:
            return False
        kept = self._text[self._at :]
        raw = self._file.read(max(READ_BYTES, len(kept), LONGEST_MARK))
        self._ended = not raw
        self._text = kept + self._stream.decode(raw)
        self._at = 0
        if self._on_read:
            self._on_read(len(raw))
        return not self._ended


def iter_records(path: Path, on_read: Callable[[int], object] | None = None) -> Iterator[JsonRecord]:
    """Yield the records of a ``.json`` list or of a ``.jsonl`` file, in order.

    ``on_read`` is told the number of bytes of each read. Raises DataError, with file, line and record number, for text
    that is not JSON, is cut off, or is not a list of objects.
    """
    if path.suffix not in (".json", ".jsonl"):
        raise DataError(f"{path}: annotations are .json (a list of records) or .jsonl (one record a line)")
    rows = _jsonl_rows(path, on_read) if path.suffix == ".jsonl" else _list_rows(path, on_read)
    for number, line, value, text in rows:
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise DataError(f"{path}:{line}: record {number}: a record is an object {{...}}, not {kind}")
        yield JsonRecord(number, line, text, value)


def iter_object_lists(
    path: Path,
    wanted: Collection[str],
    on_read: Callable[[int], object] | None = None,
    *,
    encoding: str = UTF_8,
) -> Iterator[tuple[str, JsonRecord]]:
    """Yield ``(key, record)`` of the lists below the ``wanted`` keys of one JSON object; pass over other keys.

    COCO files have fields that nobody reads, and tools write NaN into them: such numbers come out as they are.
    """
    seen: set[str] = set()
    with JsonCursor(path, on_read, encoding=encoding, nan=True) as cursor:
        if cursor.peek() != "{":
            raise cursor.fail("expected one JSON object {...} with the lists " + ", ".join(wanted))
        for key in cursor.members():
            seen.add(key)
            if key not in wanted:
                cursor.value()
                continue
            kind = {"{": "an object", '"': "text", "n": "null"}.get(cursor.peek())
            if kind is not None:
                raise cursor.fail(f"'{key}' has to be a list [...], not {kind}")
            for number, line, value, text in cursor.elements():
                if not isinstance(value, dict):
                    raise DataError(f"{path}:{line}: {key}[{number}]: expected an object, not {type(value).__name__}")
                yield key, JsonRecord(number, line, text, value)
        cursor.finish()
    missing = [key for key in wanted if key not in seen]
    if missing:
        raise DataError(f"{path}: no list '{missing[0]}' in this file")


def _list_rows(path: Path, on_read: Callable[[int], object] | None) -> Iterator[tuple[int, int, Any, str]]:
    with JsonCursor(path, on_read) as cursor:
        found = cursor.peek()
        if found != "[":
            raise cursor.fail("the file is empty" if not found else "expected a JSON list [...] of records")
        yield from cursor.elements()
        cursor.finish()


def _jsonl_rows(path: Path, on_read: Callable[[int], object] | None) -> Iterator[tuple[int, int, Any, str]]:
    number = 0
    with open_plain(path) as file:
        for line, raw in enumerate(file, start=1):
            if on_read:
                on_read(len(raw))
            try:
                text = raw.decode("utf-8-sig" if line == 1 else "utf-8").strip()
                if not text:
                    continue
                value = _DECODER.decode(text)
            except RecursionError as error:
                reason = "not valid JSON that can be read: nested too deeply"
                raise DataError(f"{path}:{line}: record {number}: {reason}") from error
            except ValueError as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                raise DataError(f"{path}:{line}: record {number}: not valid JSON: {reason}") from error
            fault = fault_of_value(value, text)
            if fault:
                raise DataError(f"{path}:{line}: record {number}: {fault}")
            yield number, line, value, text
            number += 1
