"""How problems are printed."""

from __future__ import annotations

import pytest

from ullava.errors import LONGEST_LINE, one_line


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        ("'é 名前 \U0001f468\u200d\U0001f373' is fine", "'é 名前 \U0001f468\u200d\U0001f373' is fine"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\x1b[31mred\x00", "\\x1b[31mred\\x00"),
        ("half \ud800, turned \u202e, parted \u2028", "half \\ud800, turned \\u202e, parted \\u2028"),
    ],
)
def test_a_problem_is_one_line_that_a_terminal_shows(problem: str, line: str) -> None:
    assert one_line(problem) == line


def test_a_very_long_problem_keeps_both_ends() -> None:
    line = one_line("a.yaml:1: key: '" + "9" * 5000 + "'; did you mean 'b'?")
    assert len(line) < LONGEST_LINE + 40
    assert line.startswith("a.yaml:1: key: '999") and line.endswith("'; did you mean 'b'?")
    assert "characters) ..." in line
