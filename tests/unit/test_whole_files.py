"""Files appear whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ullava import whole_files
from ullava.whole_files import whole, write_json, write_whole


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "text"
    write_whole(path, "one")
    with whole(path) as unfinished:
        unfinished.write_text("zwei ä", encoding="utf-8")
        assert path.read_text() == "one"
    assert path.read_text(encoding="utf-8") == "zwei ä"
    write_whole(path, b"three")
    assert path.read_bytes() == b"three" and [item.name for item in tmp_path.iterdir()] == ["text"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answer.json"
    write_whole(path, "old")
    with pytest.raises(KeyboardInterrupt), whole(path) as unfinished:
        unfinished.write_text("half")
        raise KeyboardInterrupt

    def refuse(source: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(whole_files.os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "new")
    assert [item.name for item in tmp_path.iterdir()] == ["answer.json"]
    assert path.read_text() == "old"


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"a": "ä"})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "ä"}
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]
