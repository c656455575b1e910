"""A training run in processes of its own that come with everything imported; imported by those processes too."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

LIMIT_S = 600.0
"""After which a run hangs."""
PATIENCE_S = 60.0
"""What torchrun's 30 seconds between SIGTERM and SIGKILL become on a machine that is busy with other work."""
LOOK_S = 0.001


def work(line: Sequence[str], environment: dict[str, str], transcript: str) -> None:
    """Be one process of a run: ``ullava`` with the arguments ``line``, in a session of its own."""
    os.setsid()
    os.environ.update(environment)
    out = os.open(transcript, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers, as in a run from the command line
    from ullava.cli.main import main

    os._exit(main(list(line)))


class Started:
    """The processes of one run, one or several of them, which meet by gloo."""

    def __init__(self, context: Any, line: Sequence[str], processes: int, transcript: Path) -> None:
        self.transcript = transcript
        self.transcript.write_text("")
        self.lost_a_peer = False
        port = _free_port()
        self._running = []
        for rank in range(processes):
            environment = {}
            if processes > 1:
                environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
                environment |= {"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            self._running.append(context.Process(target=work, args=(list(line), environment, str(transcript))))
        for process in self._running:
            process.start()

    @property
    def processes(self) -> int:
        """How many there are."""
        return len(self._running)

    @property
    def alive(self) -> bool:
        """Whether one of them still runs."""
        return any(process.is_alive() for process in self._running)

    def words(self) -> str:
        """Return what they have said."""
        return self.transcript.read_text(errors="replace")

    def ended(self) -> list[int]:
        """Wait for the end and return the exit codes; a run that hangs is killed, and its codes tell it."""
        until = time.monotonic() + LIMIT_S
        for process in self._running:
            process.join(max(0.0, until - time.monotonic()))
        self._kill(self._running)
        return [int(process.exitcode) for process in self._running]

    def signal(self, number: signal.Signals, rank: int | None, lots: random.Random) -> list[int]:
        """Send ``number`` to all processes, or to that of ``rank``, and return the exit codes.

        After the SIGKILL of one, the others get SIGTERM, then SIGKILL, as from torchrun. Half of the SIGKILLs leave the
        loader's workers to find out by themselves, the others take the whole group.
        """
        for process in self._running if rank is None else [self._running[rank]]:
            if not process.is_alive():
                continue
            whole_group = number == signal.SIGKILL and lots.random() < 0.5
            with suppress(ProcessLookupError):  # it has ended meanwhile
                # In its first moments it still is in the group of what started it.
                if whole_group and os.getpgid(process.pid) == process.pid:
                    os.killpg(process.pid, number)
                else:
                    os.kill(process.pid, number)
        if number == signal.SIGKILL and rank is not None:
            self.lost_a_peer = True
            self._running[rank].join()
            for process in self._running:
                if process.is_alive():
                    os.kill(process.pid, signal.SIGTERM)
            until = time.monotonic() + PATIENCE_S
            for process in self._running:
                process.join(max(0.0, until - time.monotonic()))
            self._kill(self._running)
        return self.ended()

    def _kill(self, processes: Sequence[Any]) -> None:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()


def wait_for(happens: Callable[[], bool], started: Started, seconds: float = LIMIT_S) -> None:
    """Return when ``happens()``, when the run is at its end, or after ``seconds``."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and started.alive and not happens():
        time.sleep(LOOK_S)


def _free_port() -> str:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return str(door.getsockname()[1])
