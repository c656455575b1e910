"""Finds the golden cases: folders with a ``case.json`` below $ULLAVA_PARITY, by default ``../shared/parity``."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

DEFAULT = Path(__file__).resolve().parents[4] / "shared" / "parity"


@cache
def _all_cases() -> dict[str, list[Path]]:
    """Folder(s) of each kind of case; those of other systems lie in folders of their own."""
    root = Path(os.environ.get("ULLAVA_PARITY") or DEFAULT)
    root = root / "ullava" if (root / "ullava").is_dir() else root
    found: dict[str, list[Path]] = {}
    for file in sorted(root.rglob("case.json")):
        found.setdefault(read(file.parent)["case"], []).append(file.parent)
    return found


@cache
def read(folder: Path, name: str = "case.json") -> Any:
    """A JSON file of a case."""
    return json.loads((folder / name).read_text(encoding="utf-8"))


def folders(kind: str) -> list[Any]:
    """Parameters for a test: every folder of this kind, or one that skips and says why."""
    found = _all_cases().get(kind, [])
    if found:
        return [pytest.param(folder, id=f"{read(folder).get('set', folder.parent.name)}-{kind}") for folder in found]
    return [pytest.param(Path(), id=kind, marks=pytest.mark.skip(reason=f"no golden case '{kind}' is here"))]
