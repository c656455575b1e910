"""Runs of ``ullava train`` that are killed at a given moment; imported by processes that the tests start."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

WRITES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}
"""Events of Python's audit hooks by which a run changes its folder, or begins to."""


class Moments:
    """Counts the changes in a run folder and kills the process, as ``kill -9`` does, right before number ``last``."""

    def __init__(self, folder: Path, last: int | None) -> None:
        self.folder = str(folder)
        self.last = last
        self.seen: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Be an audit hook."""
        if event not in WRITES or not arguments or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        path = os.fsdecode(arguments[0])
        if not path.startswith(self.folder):
            return
        self.seen.append(f"{event} {os.path.relpath(path, self.folder)}")
        if len(self.seen) == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def run(arguments: list[str], folder: str, last: int | None, transcript: str) -> None:
    """Run a command line; what it changed in ``folder``, its words and its exit code go to ``transcript``."""
    from ullava.cli.main import main

    moments = Moments(Path(folder), last)
    sys.addaudithook(moments)
    with open(f"{transcript}.out", "w") as out, redirect_stdout(out), redirect_stderr(out):
        status = main(arguments)
    Path(f"{transcript}.moments").write_text("\n".join(moments.seen))
    os._exit(status)
