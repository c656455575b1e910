"""Lines of JSON Lines files: where they end, and what is no line."""

from __future__ import annotations

import io

import pytest

from ullava.json_lines import numbered_lines, parse_line


def test_only_a_line_feed_ends_a_line() -> None:
    text = '\ufeff{"a": "x\u2028y\u0085z\x0b"}\r\n\n  \n{"b": 1}'
    lines = list(numbered_lines(io.BytesIO(text.encode())))
    assert [number for number, _ in lines] == [1, 4]
    assert parse_line(lines[1][1]) == {"b": 1}
    assert lines[0][1] == '{"a": "x\u2028y\u0085z\x0b"}'.encode()


def test_separators_of_unicode_stay_in_their_strings() -> None:
    assert parse_line('{"a": "x\u2028y\u0085z"}'.encode()) == {"a": "x\u2028y\u0085z"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1', "not JSON"),
        (b'"caf\xe9"', "is not UTF-8 text"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5_000, "thousands of digits"),
    ],
)
def test_what_is_no_json_is_told_in_words(line: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_line(line)
