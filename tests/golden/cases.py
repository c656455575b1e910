"""Finds golden cases, folders with a ``case.json``: those of this folder, and of $ULLAVA_PARITY or ../shared/parity.

A case that lies here is not looked for outside a second time, unless $ULLAVA_PARITY asks for other ones by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
BESIDE = HERE.parents[2] / "shared" / "parity"


@cache
def read(folder: Path, name: str = "case.json") -> Any:
    """A JSON file of a case."""
    return json.loads((folder / name).read_text(encoding="utf-8"))


def _identity(folder: Path) -> tuple[str, ...]:
    case = read(folder)
    return case.get("system", "ullava"), case["case"], case.get("set", folder.parent.name)


@cache
def _all_cases() -> dict[tuple[str, str], list[Path]]:
    """Folders of every (system, case)."""
    named = os.environ.get("ULLAVA_PARITY")
    inside = [file.parent for file in sorted(HERE.rglob("case.json"))]
    outside = [file.parent for file in sorted(Path(named or BESIDE).rglob("case.json"))]
    known = set() if named else {_identity(folder) for folder in inside}
    found: dict[tuple[str, str], list[Path]] = {}
    for folder in [*inside, *(folder for folder in outside if _identity(folder) not in known)]:
        system, case, _ = _identity(folder)
        found.setdefault((system, case), []).append(folder)
    return found


def _parameters(system: str, cases: tuple[str, ...]) -> Iterator[Any]:
    for case in cases:
        for folder in _all_cases().get((system, case), []):
            place = "" if HERE in folder.parents else "outside-"
            yield pytest.param(folder, id=f"{place}{_identity(folder)[-1]}-{folder.name}")


def folders(system: str, *cases: str) -> list[Any]:
    """Parameters for a test: every folder of these cases, or one that skips and says why."""
    found = list(_parameters(system, cases))
    if found:
        return found
    missing = ", ".join(cases)
    reason = f"no golden case {system}/{missing} is here, nor below $ULLAVA_PARITY or ../shared/parity"
    return [pytest.param(Path(), id=missing, marks=pytest.mark.skip(reason=reason))]
