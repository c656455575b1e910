"""Text is read in the encoding that was said and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from ullava.data.annotations.encodings import check_encoding, read_text
from ullava.errors import DataError


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("gbk", '{"标签": "猫"}'),
        ("shift_jis", '{"名前": "ねこ"}'),
        ("cp1252", '{"label": "café €"}'),
        ("latin-1", '{"label": "naïve"}'),
        ("cp1251", '{"label": "кот"}'),
        ("utf-16", '{"label": "猫"}'),
        ("utf-16-le", '{"label": "cat"}'),
        ("utf-16-be", '{"label": "cat"}'),
        ("utf-32", '{"label": "cat"}'),
    ],
)
def test_other_encodings_are_refused_until_they_are_said(tmp_path: Path, encoding: str, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=rf"{path}:1: not UTF-8 text near byte \d+.*--encoding"):
        read_text(path)
    assert read_text(path, check_encoding(encoding)) == text


def test_utf8_is_read_with_and_without_its_mark(tmp_path: Path) -> None:
    for mark in ("", "\ufeff"):
        (tmp_path / "a.txt").write_text(mark + "é\nü", encoding="utf-8")
        assert read_text(tmp_path / "a.txt") == "é\nü"
    (tmp_path / "a.txt").write_bytes(b"")
    assert read_text(tmp_path / "a.txt") == ""


def test_a_file_with_the_mark_of_utf8_contradicts_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("\ufeffcat", encoding="utf-8")
    with pytest.raises(DataError, match="begins with the mark of UTF-8, but --encoding gbk was said"):
        read_text(path, "gbk")


def test_what_was_said_is_taken_where_both_would_do(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes("猫".encode("gbk"))  # the very bytes of "è" in UTF-8
    assert read_text(tmp_path / "a.json", "gbk") == "猫"


@pytest.mark.parametrize("name", ["klingon", "hex", "", "utf-8\0"])
def test_encodings_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="no text encoding is called"):
        check_encoding(name)


def test_a_near_name_is_offered() -> None:
    with pytest.raises(DataError, match="did you mean 'cp1252'"):
        check_encoding("cp1525")
