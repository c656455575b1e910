"""Reads long JSON files record by record, with bounded memory and with file, line and record number in every error."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ullava.errors import DataError

READ_BYTES = 1 << 20
MAX_RECORD_CHARS = 256 << 20
_BLANK = re.compile(r"[ \t\n\r]*")
_NEAR_END = 16


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_DECODER_WITH_NAN = json.JSONDecoder()


class JsonRecord(NamedTuple):
    """One record: its number in the list (from 0), the line on which it starts (from 1), its text and its value."""

    number: int
    line: int
    text: str
    value: dict[str, Any]


class JsonCursor:
    """Walks through one JSON text and holds no more of it than the value in hand.

    ``nan``: NaN and Infinity, which are no JSON, become numbers; whoever reads a field has to refuse them there.
    """

    def __init__(self, path: Path, on_read: Callable[[int], object] | None = None, *, nan: bool = False) -> None:
        self.path = path
        self.where = ""
        self._on_read = on_read
        self._decoder = _DECODER_WITH_NAN if nan else _DECODER
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._line = 1
        self._bytes = 0
        self._ended = False
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error

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
            except (ValueError, RecursionError) as error:
                raise self.fail(f"not valid JSON: {str(error) or 'nested too deeply'}") from error
            if end < len(self._text) or not self._more():
                break
        text = self._text[self._at : end]
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
        raw = self._file.read(max(READ_BYTES, len(kept)))
        self._ended = not raw
        if not self._bytes and raw.startswith(codecs.BOM_UTF8):
            raw = raw[len(codecs.BOM_UTF8) :]
        try:
            self._text = kept + self._decode.decode(raw, final=self._ended)
        except UnicodeDecodeError as error:
            raise self.fail(f"not UTF-8 text near byte {self._bytes + error.start}") from error
        self._at = 0
        self._bytes += len(raw)
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
    path: Path, wanted: Collection[str], on_read: Callable[[int], object] | None = None
) -> Iterator[tuple[str, JsonRecord]]:
    """Yield ``(key, record)`` of the lists below the ``wanted`` keys of one JSON object; pass over other keys.

    NaN comes through as a number: in a field that nobody reads it does no harm.
    """
    seen: set[str] = set()
    with JsonCursor(path, on_read, nan=True) as cursor:
        if cursor.peek() != "{":
            raise cursor.fail("expected one JSON object {...} with the lists " + ", ".join(wanted))
        cursor.take("{")
        while cursor.peek() != "}":
            if seen:
                cursor.take(",")
            key, _ = cursor.value()
            if not isinstance(key, str) or key in seen:
                raise cursor.fail(f"key {key!r} is there twice" if isinstance(key, str) else "a key is a string")
            seen.add(key)
            cursor.take(":")
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
        cursor.take("}")
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
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    number = 0
    with file:
        for line, raw in enumerate(file, start=1):
            if on_read:
                on_read(len(raw))
            try:
                text = raw.decode("utf-8-sig" if line == 1 else "utf-8").strip()
                if not text:
                    continue
                value = _DECODER.decode(text)
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                raise DataError(f"{path}:{line}: record {number}: not valid JSON: {reason}") from error
            yield number, line, value, text
            number += 1
