"""Jobs of many callers become few batches, one after the other. Knows nothing of HTTP, of models or of asyncio."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition, Event, Thread
from typing import Any, Generic, TypeVar

P = TypeVar("P")
R = TypeVar("R")

_LONGEST_WAIT_S = 60


class QueueFullError(Exception):
    """Nothing more is taken now; ``retry_after_s``: when there is likely room."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("the queue is full")
        self.retry_after_s = retry_after_s


class ClosedError(Exception):
    """Nothing more is taken at all."""


@dataclass(eq=False, slots=True)
class Job(Generic[P, R]):
    """One thing to do. Jobs of equal ``key`` may share a batch unless they are to be done ``alone``.

    ``size``: how much of a batch it takes. ``left``: nobody waits for it any more. Times are of ``time.monotonic``.
    """

    payload: P
    key: Hashable
    size: int = 1
    alone: bool = False
    future: Future[R] = field(default_factory=Future)
    left: Event = field(default_factory=Event)
    submitted: float = 0.0
    started: float = 0.0

    def leave(self) -> None:
        """Give it up: it is dropped if it has not begun, and ``left`` tells its worker if it has."""
        self.left.set()
        self.future.cancel()


class Batcher(Generic[P, R]):
    """A queue and one thread that empties it in batches, first come, first served.

    ``run``: does the jobs of a batch and returns their results in order; where it raises, each job is done again on
    its own, so that one cannot spoil the others. A batch holds jobs of one key up to ``max_batch`` together; its first
    job waits at most ``max_wait_s`` for others. ``max_queue``: size of all jobs waiting and announced together.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job[P, R]]], Sequence[R]],
        *,
        max_batch: int,
        max_wait_s: float,
        max_queue: int,
        name: str = "batcher",
    ) -> None:
        self._run = run
        self.max_batch = max_batch
        self.max_wait_s = max_wait_s
        self.max_queue = max_queue
        self._changed = Condition()
        self._waiting: deque[Job[P, R]] = deque()
        self._announced = 0
        self._closed = False
        self._batch_s = 0.1
        self._thread = Thread(target=self._work, name=f"ullava-{name}", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ callers
    @property
    def waiting(self) -> int:
        """Size of the jobs that wait and were not given up."""
        with self._changed:
            return self._size()

    def retry_after_s(self) -> int:
        """Whole seconds after which a queue as long as this one is likely done."""
        with self._changed:
            batches = (self._size() + self._announced) / self.max_batch
            return min(max(math.ceil(batches * self._batch_s), 1), _LONGEST_WAIT_S)

    @contextmanager
    def place(self, size: int = 1) -> Iterator[Callable[[Job[P, R]], None]]:
        """Keep a place for a job that is still being prepared; what is yielded submits it.

        Raises QueueFullError without preparing anything, ClosedError after ``close``.
        """
        with self._changed:
            if self._closed:
                raise ClosedError
            full = self._size() + self._announced + size > self.max_queue
            if not full:
                self._announced += size
        if full:
            raise QueueFullError(self.retry_after_s())
        taken = False

        def submit(job: Job[P, R]) -> None:
            nonlocal taken
            with self._changed:
                self._announced -= 0 if taken else size
                taken = True
                job.submitted = time.monotonic()
                self._waiting.append(job)
                self._changed.notify_all()

        try:
            yield submit
        finally:
            with self._changed:
                self._announced -= 0 if taken else size
                taken = True
                self._changed.notify_all()

    def close(self, *, drain: bool = True) -> None:
        """Take nothing more and wait for the end: of all jobs and places taken, or (not ``drain``) of those begun."""
        with self._changed:
            self._closed = True
            if not drain:
                for job in self._waiting:
                    job.leave()
            self._changed.notify_all()
        self._thread.join()

    # ------------------------------------------------------------ the worker
    def _size(self) -> int:
        return sum(job.size for job in self._waiting if not job.future.cancelled())

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            jobs = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if jobs:
                self._do(jobs)

    def _next_batch(self) -> list[Job[P, R]] | None:
        """Wait for work and take it; None when there will be none any more."""
        with self._changed:
            while True:
                self._waiting = deque(job for job in self._waiting if not job.future.cancelled())
                if self._waiting:
                    first = self._waiting[0]
                    batch = self._fitting(first)
                    left_s = first.submitted + self.max_wait_s - time.monotonic()
                    whole = first.alone or sum(job.size for job in batch) >= self.max_batch
                    if whole or left_s <= 0 or (self._closed and not self._announced):
                        taken = set(map(id, batch))
                        self._waiting = deque(job for job in self._waiting if id(job) not in taken)
                        return batch
                    self._changed.wait(left_s)
                elif self._closed and not self._announced:
                    return None
                else:
                    self._changed.wait()

    def _fitting(self, first: Job[P, R]) -> list[Job[P, R]]:
        """The first job and those behind it that share its batch."""
        if first.alone:
            return [first]
        batch: list[Job[P, R]] = []
        size = 0
        for job in self._waiting:
            if job is not first and (job.alone or job.key != first.key):
                continue
            if batch and size + job.size > self.max_batch:
                break
            batch.append(job)
            size += job.size
        return batch

    def _do(self, jobs: Sequence[Job[P, R]]) -> None:
        begun = time.monotonic()
        for job in jobs:
            job.started = begun
        try:
            results: Sequence[Any] = self._run(jobs)
        except BaseException as error:  # whatever it is, the callers have to know, and the worker goes on
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            else:
                for job in jobs:
                    self._do([job])
            return
        seconds = time.monotonic() - begun
        with self._changed:
            self._batch_s += 0.2 * (seconds - self._batch_s)
        for job, result in zip(jobs, results, strict=True):
            job.future.set_result(result)
