"""Runs one input in a forked process, so that a hang, a crash or a flood of memory is one finding and no more."""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

from tests.fuzz.cases import Printed, Verdict
from tests.fuzz.judge import judge, tree_state, where_raised

CPU_SECONDS = 20
WALL_SECONDS = 60
MEMORY_BYTES = 3 << 30
"""What one input may take on top of the loaded program."""


def door_module(name: str) -> ModuleType:
    """The module of a door."""
    return importlib.import_module(f"tests.fuzz.doors.{name}")


def run_input(door: str, number: int, seed: int, work: Path, *, keep: bool = False) -> Verdict:
    """Make and run input ``number`` of a door; the same three numbers give the same input."""
    folder = work / "inputs" / f"{door}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "case").mkdir(parents=True)
    begun = time.perf_counter()
    process = os.fork()
    if process == 0:
        _child(lambda: _carry_out(door, number, seed, work, folder), folder)
    status, killed = _wait(process)
    verdict = Verdict(door, number, seconds=time.perf_counter() - begun)
    for name in ("input.json", "result.json"):
        if (folder / name).is_file():
            for key, value in json.loads((folder / name).read_text()).items():
                setattr(verdict, key, value)
    verdict.findings = [(str(kind), str(detail)) for kind, detail in verdict.findings]
    if not (folder / "result.json").is_file():
        err = (folder / "err").read_text(errors="replace") if (folder / "err").is_file() else ""
        hung = killed or "Timeout (" in err or os.WIFSIGNALED(status) and os.WTERMSIG(status) in (9, 24)
        place = re.findall(r'File "[^"]*?/(ullava/[^"]+)", line \d+ in (\S+)', err)
        shown = " in ".join(place[0]) if place else f"status {status}"
        kind = "hang" if hung else "crash" if verdict.argv else "defect of the fuzzer"
        verdict.findings.append((kind, shown if verdict.argv else where_raised(err)))
    if verdict.findings:
        verdict.status = "finding"
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    return verdict


def prepare(write: Callable[[Path], None], folder: Path) -> None:
    """Let ``write`` fill a folder in a process of its own: what it starts (threads) would not outlive a fork."""
    process = os.fork()
    if process == 0:
        log = folder / "log"
        log.mkdir()
        _child(lambda: write(folder), log, limited=False)
    if status := os.waitpid(process, 0)[1]:
        sys.exit(f"{folder}: status {status}\n{(folder / 'log' / 'err').read_text(errors='replace')}")
    shutil.rmtree(folder / "log")


def _wait(process: int) -> tuple[int, bool]:
    """Wait for a process, longer than its own watchdog does; return its status and whether it had to be killed."""
    last = time.monotonic() + WALL_SECONDS + 10
    while time.monotonic() < last:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return status, False
        time.sleep(0.002)
    os.kill(process, 9)
    return os.waitpid(process, 0)[1], True


def _child(work: Callable[[], None], folder: Path, limited: bool = True) -> None:
    """Do the work with output to files of ``folder``, and end the process; with 0 where it went well."""
    code = 3
    try:
        for number, name in ((1, "out"), (2, "err")):
            file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)
        faulthandler.enable(file=sys.stderr)
        if limited:
            _limit()
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _limit() -> None:
    """Bound time and memory of this process."""
    faulthandler.dump_traceback_later(WALL_SECONDS, exit=True, file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, resource.RLIM_INFINITY))


def _carry_out(door: str, number: int, seed: int, work: Path, folder: Path) -> None:
    case_folder = folder / "case"
    (case_folder / "tmp").mkdir()
    os.environ["TMPDIR"] = str(case_folder / "tmp")
    tempfile.tempdir = None
    os.chdir(case_folder)
    rng = Random(f"{seed}/{door}/{number}")
    case = door_module(door).make(rng, case_folder, work / "base" / door)
    _note(folder / "input.json", argv=case.argv, what=case.what)
    before = tree_state(case_folder)
    code = _main(case.argv)
    printed = _printed(folder)
    findings = judge(case, code, printed, before, tree_state(case_folder))
    if code == 0 and not findings and case.check is not None:
        try:
            findings += [("silently wrong", problem) for problem in case.check(printed)]
        except Exception:
            told = traceback.format_exc()
            sys.stderr.write(told)
            findings.append(("accepted, but cannot be used", where_raised(told)))
    said = next((line for line in printed.err.splitlines() if line.startswith("error: ")), "")
    _note(folder / "result.json", findings=findings, status="accepted" if code == 0 else "refused", said=said)


def _main(argv: list[str]) -> int:
    """The exit code of a command line; 1 with a traceback where it raises."""
    from ullava.cli.main import main

    try:
        return main(argv)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 1


def _printed(folder: Path) -> Printed:
    sys.stdout.flush()
    sys.stderr.flush()
    texts = [(folder / name).read_bytes().decode("utf-8", "replace") for name in ("out", "err")]
    return Printed(*texts)


def _note(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(values))
