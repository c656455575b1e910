"""What makes the end of a command line right or wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tests.fuzz.cases import Case, Printed

LONGEST_LINE = 1000
MOST_LINES = 200
CACHE = ".ullava-cache"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_WARNING = re.compile(r"^.*\b(?:Runtime|User|Future|Deprecation|Resource)Warning\b.*$", re.MULTILINE)
State = Mapping[str, tuple[int, int]]


def tree_state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything below a folder (links are not followed), by path."""
    state: dict[str, tuple[int, int]] = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        plain = path.is_file() or path.is_symlink()
        state[path.relative_to(folder).as_posix()] = (facts.st_size, facts.st_mtime_ns) if plain else (0, 0)
    return state


def judge(case: Case, code: int, printed: Printed, before: State, after: State) -> list[tuple[str, str]]:
    """Return kind and detail of everything that is wrong with a finished command line."""
    findings: list[tuple[str, str]] = []
    if "Traceback (most recent call last)" in printed.err:
        findings.append(("traceback", where_raised(printed.err)))
    elif code not in (0, 2):
        findings.append(("exit code", f"{code}"))
    if code == 2:
        findings += _refusal(case, printed.err)
        findings += _left_behind(case, before, after)
    if code in (0, 2) and case.expected == ("refused" if code == 0 else "accepted"):
        line = next((line for line in printed.err.splitlines() if line.startswith("error: ")), "")
        findings.append((f"wrongly {'accepted' if code == 0 else 'refused'}", line[:200]))
    if warned := _WARNING.search(printed.err):
        findings.append(("warning", re.sub(r"^.*/site-packages/", "", warned.group())[:200]))
    for name in sorted(set(after) - set(before)):
        if _is_temporary(name):
            findings.append(("temporary file", name))
    return findings


def where_raised(err: str) -> str:
    """The last place in our code, and the exception, of a traceback."""
    places = re.findall(r'File "[^"]*?/(ullava/[^"]+)", line \d+, in (\S+)', err)
    last = [line for line in err.splitlines() if re.match(r"[\w.]+(Error|Exception|Interrupt|Exit|Warning)\b", line)]
    return f"{last[-1][:160] if last else 'unknown'} <- {' in '.join(places[-1]) if places else '?'}"


def _refusal(case: Case, err: str) -> list[tuple[str, str]]:
    lines = [line for line in err.split("\n") if line.strip()]
    first = next((place for place, line in enumerate(lines) if line.startswith("error: ")), None)
    if first is None:
        return [("no message", err[-200:])]
    told = lines[first:]
    findings = []
    if loose := [line for line in told if not line.startswith("error: ")]:
        findings.append(("message of several lines", loose[0][:200]))
    if case.names and not any(name in line for name in case.names for line in told):
        findings.append(("message names no file", told[0][:200]))
    if long := [line for line in told if len(line) > LONGEST_LINE]:
        findings.append(("message too long", f"{len(long[0])} characters: {long[0][:150]}"))
    if odd := [line for line in told if _CONTROL.search(line)]:
        findings.append(("control characters in a message", repr(odd[0][:200])))
    if len(told) > MOST_LINES:
        findings.append(("too many messages", f"{len(told)} lines"))
    return findings


def _left_behind(case: Case, before: State, after: State) -> list[tuple[str, str]]:
    """What a refused command line wrote or changed."""
    findings = []
    for name in sorted(set(before) | set(after)):
        allowed = CACHE in name or any(name == path or name.startswith(f"{path}/") for path in case.writes)
        if before.get(name) != after.get(name) and not allowed:
            how = "new" if name not in before else "changed" if name in after else "gone"
            findings.append(("refused, but wrote", f"{how}: {name}"))
    return findings[:3]


def _is_temporary(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return name.startswith("tmp/") or (last.startswith(".") and not last.endswith("lock")) or ".tmp" in last
