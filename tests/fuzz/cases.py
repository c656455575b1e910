"""What a fuzzed input is, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal, Protocol

Expected = Literal["either", "accepted", "refused"]


@dataclass(frozen=True, slots=True)
class Printed:
    """What a command line printed."""

    out: str
    err: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One command line on material of its own.

    ``what``: what was done to sound input. ``names``: a refusal has to name one of these. ``expected``: what is known
    beforehand. ``check``: looks at what an accepted input left behind and returns what is wrong with it. ``writes``:
    paths below the case's folder (without a trailing slash) that a refused command may have written to.
    """

    argv: list[str]
    what: str
    names: tuple[str, ...] = ()
    expected: Expected = "either"
    check: Callable[[Printed], list[str]] | None = None
    writes: tuple[str, ...] = ()


class Door(Protocol):
    """A module of ``tests.fuzz.doors``: one way into the program.

    ``SHARE``: its part of the inputs. ``prepare`` makes sound material once, below its own folder; ``make`` makes one
    input from it, in the (empty, current) folder of the case.
    """

    SHARE: int

    def prepare(self, base: Path) -> None:
        """Write the material."""
        ...

    def make(self, rng: Random, folder: Path, base: Path) -> Case:
        """Make one input."""
        ...


@dataclass(slots=True)
class Verdict:
    """What came of one input. ``findings`` are pairs of kind and detail; ``said``: the first message."""

    door: str
    number: int
    status: Literal["accepted", "refused", "finding"] = "finding"
    findings: list[tuple[str, str]] = field(default_factory=list)
    what: str = ""
    argv: list[str] = field(default_factory=list)
    said: str = ""
    seconds: float = 0.0
