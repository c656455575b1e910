"""The errors that a person can cause and mend. The command line prints them without a traceback and exits with 2."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

LONGEST_LINE = 900
_UNPRINTED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys or cannot show: control characters, ends of lines, turns of direction, halves of characters."""


class UserError(Exception):
    """Something the user wrote or supplied is wrong; ``problems`` holds one line for each thing to mend."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ConfigError(UserError):
    """A YAML file or a command-line override is not what the schema asks for."""


class DataError(UserError):
    """An annotation file, an image or a dataset folder cannot be used."""


class SampleError(DataError):
    """One sample cannot be used. ``sample`` is its name, so that it can be counted and found again."""

    def __init__(self, sample: str, reason: str) -> None:
        self.sample = sample
        self.reason = reason
        super().__init__(f"{sample}: {reason}")

    def __reduce__(self) -> tuple[type[SampleError], tuple[str, str]]:
        """Loader workers send this across a pipe, and the base class pickles another signature."""
        return type(self), (self.sample, self.reason)


class WeightsError(UserError):
    """A checkpoint does not fit the model: keys missing, unexpected or of another shape, or an unsafe format."""


class HubUnreachableError(UserError):
    """Something of the Hugging Face Hub is not on this machine, and the Hub cannot be asked."""


class Interrupted(KeyboardInterrupt):
    """A signal has ended the work; what was done so far is kept. The command line leaves with ``exit_code``."""

    def __init__(self, number: int, message: str = "interrupted") -> None:
        self.number = number
        self.exit_code = 128 + number
        super().__init__(message)


def one_line(problem: str) -> str:
    """Return a problem as one line to print: what a terminal would obey as escapes, a very long one without its middle.

    Problems quote what the user wrote, which may hold anything.
    """
    line = _UNPRINTED.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode(), problem)
    if len(line) <= LONGEST_LINE:
        return line
    half = LONGEST_LINE // 2
    return f"{line[:half]} ... ({len(line) - 2 * half} characters) ... {line[-half:]}"


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of ``choices``, else the choices if they are few, else ''."""
    known = sorted(set(choices))
    same = [choice for choice in known if choice.casefold() == name.casefold()]
    near = same or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 12 else ""
