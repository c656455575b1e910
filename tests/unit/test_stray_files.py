"""What macOS and Windows leave in folders is nobody's recipe and nobody's annotation."""

from __future__ import annotations

from pathlib import Path

import pytest

from ullava.resources import ENVIRONMENT, is_stray, names


def test_stray_files_are_known_and_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    for name in ("mine.yaml", "._mine.yaml"):
        (tmp_path / "configs" / name).write_text("")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    assert "mine" in names("configs") and "._mine" not in names("configs")
    stray = ["a/._b.jpg", "a/.DS_Store", "Thumbs.db", "__MACOSX/a.jpg"]
    assert [is_stray(Path(name)) for name in [*stray, "a/.b.jpg", "_b.jpg"]] == [True] * 4 + [False] * 2
