"""A short run of the fuzzer, and that the fuzzer itself sees what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.fuzz import worker
from tests.fuzz.cases import Case, Printed
from tests.fuzz.judge import judge, where_raised

SHORT_RUN = 60
TRACEBACK = 'Traceback (most recent call last):\n  File "/x/ullava/data/a.py", line 3, in read\nKeyError: 5\n'


@pytest.mark.fuzz
def test_a_short_run_finds_nothing(root: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "tests.fuzz", "--inputs", str(SHORT_RUN), "--seed", "0"]
    run = subprocess.run([*line, "--json", str(tmp_path / "found.json")], cwd=root, capture_output=True, text=True)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["findings"] == [], run.stdout
    assert run.returncode == 0, run.stderr
    assert found["inputs"] >= SHORT_RUN
    assert len(found["doors"]) >= 20
    for figures in found["doors"].values():
        assert sum(figures.values()) > 0


def kinds(code: int, err: str = "", after: dict[str, tuple[int, int]] | None = None, **case: object) -> list[str]:
    """What the judge calls the end of a command line in a folder that held ``given.json``."""
    before = {"given.json": (1, 1)}
    made = Case(argv=["x"], what="", **case)  # type: ignore[arg-type]
    return [kind for kind, _ in judge(made, code, Printed("", err), before, before | (after or {}))]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (kinds(0), []),
        (kinds(2, "error: given.json:1: no\n", names=("given.json",)), []),
        (kinds(2, "reading: 5%\rerror\nerror: a\nerror: b\n"), []),
        (kinds(0, after={"out/x.json": (1, 1)}), []),
        (kinds(1, TRACEBACK), ["traceback"]),
        (kinds(2, TRACEBACK + "error: x\n"), ["traceback"]),
        (kinds(1), ["exit code"]),
        (kinds(2), ["no message"]),
        (kinds(2, "error: a\nb\n"), ["message of several lines"]),
        (kinds(2, "error: a\n", names=("given.json",)), ["message names no file"]),
        (kinds(2, f"error: {'a' * 2000}\n"), ["message too long"]),
        (kinds(2, "error: \x1b[31m\n"), ["control characters in a message"]),
        (kinds(2, "error: a\n" * 300), ["too many messages"]),
        (kinds(2, "error: a\n", {"out/x.json": (1, 1)}), ["refused, but wrote"]),
        (kinds(2, "error: a\n", {"given.json": (2, 2)}), ["refused, but wrote"]),
        (kinds(2, "error: a\n", {"out/x.json": (1, 1)}, writes=("out",)), []),
        (kinds(2, "error: a\n", {"given.json.ullava-cache/x.arrow": (1, 1)}), []),
        (kinds(0, after={"out/.x.json.0f": (1, 1)}), ["temporary file"]),
        (kinds(0, after={"tmp/x": (1, 1)}), ["temporary file"]),
        (kinds(0, "x.py:3: RuntimeWarning: overflow\n"), ["warning"]),
        (kinds(0, expected="refused"), ["wrongly accepted"]),
        (kinds(2, "error: a\n", expected="accepted"), ["wrongly refused"]),
    ],
)
def test_the_judge(found: list[str], expected: list[str]) -> None:
    assert found == expected


def test_a_traceback_is_named_by_its_last_place_in_our_code() -> None:
    assert where_raised(TRACEBACK) == "KeyError: 5 <- ullava/data/a.py in read"


Main = Callable[[list[str]], int]


def run(monkeypatch: pytest.MonkeyPatch, work: Path, main: Main, **case: object) -> worker.Verdict:
    """Run one input of a door that makes a plain case, with ``main`` in the place of the program."""
    made = Case(argv=["x"], what="plain", **case)  # type: ignore[arg-type]
    monkeypatch.setattr(worker, "door_module", lambda name: SimpleNamespace(make=lambda rng, folder, base: made))
    monkeypatch.setattr(worker, "_main", main)
    return worker.run_input("plain", 0, 0, work)


def test_a_sound_input_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    verdict = run(monkeypatch, tmp_path, lambda argv: 0)
    assert (verdict.status, verdict.findings, verdict.what) == ("accepted", [], "plain")


def test_a_wrong_result_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    verdict = run(monkeypatch, tmp_path, lambda argv: 0, check=lambda printed: ["a shape is lost"])
    assert verdict.findings == [("silently wrong", "a shape is lost")]


def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    verdict = run(monkeypatch, tmp_path, lambda argv: 0, check=lambda printed: [{}["x"]])
    assert [kind for kind, _ in verdict.findings] == ["accepted, but cannot be used"]


def test_a_hang_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(worker, "WALL_SECONDS", 1)
    verdict = run(monkeypatch, tmp_path, lambda argv: time.sleep(30) or 0)
    assert [kind for kind, _ in verdict.findings] == ["hang"]


def test_a_crash_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    verdict = run(monkeypatch, tmp_path, lambda argv: os.kill(os.getpid(), 11) or 0)
    assert [kind for kind, _ in verdict.findings] == ["crash"]


def test_a_flood_of_memory_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def flood(argv: list[str]) -> int:
        return len(bytearray(worker.MEMORY_BYTES + 1))

    verdict = run(monkeypatch, tmp_path, flood)
    assert verdict.status == "finding"
