"""Where the time of an answer goes, stage by stage.

The code that answers names its stages (``with stage("vision encoder")``); nobody pays for that unless a clock runs:

    with measured_stages() as clock:
        model.answer("cat.jpg", "Segment the cat.")
    clock.seconds  # {"read": 0.004, "preprocess": 0.003, "vision encoder": 0.041, "prefill": ...}

A stage within another one is taken out of it, so the seconds add up. Work on an accelerator goes on after a call has
returned: ``wait`` (``torch.accelerator.synchronize``) is called where a stage ends. A clock sees its own thread alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

STAGES = (
    "read",
    "preprocess",
    "vision encoder",
    "prefill",
    "decode",
    "mask encoder",
    "mask decoder",
    "box head",
    "post-process",
)
"""All stages, in their order. ``prefill``: the language model reads the question; ``decode``: it writes the answer, all
that generation does beside it included (a native core's prefill too, which generates by itself).
"""


class StageClock:
    """``seconds`` spent in each stage that was entered, without those inside of it, and how often (``entered``)."""

    def __init__(self, wait: Callable[[], None] | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.entered: dict[str, int] = {}
        self._wait = wait
        self._inside: list[float] = []

    @contextmanager
    def run(self, name: str) -> Iterator[None]:
        """Count what happens inside as stage ``name``."""
        started = time.perf_counter()
        self._inside.append(0.0)
        try:
            yield
        finally:
            if self._wait is not None:
                self._wait()
            spent = time.perf_counter() - started
            inner = self._inside.pop()
            if self._inside:
                self._inside[-1] += spent
            self.seconds[name] = self.seconds.get(name, 0.0) + spent - inner
            self.entered[name] = self.entered.get(name, 0) + 1


_RUNNING: ContextVar[StageClock | None] = ContextVar("stage_clock", default=None)


@contextmanager
def measured_stages(wait: Callable[[], None] | None = None) -> Iterator[StageClock]:
    """Run a clock; of two, one inside the other, the inner one counts."""
    clock = StageClock(wait)
    token = _RUNNING.set(clock)
    try:
        yield clock
    finally:
        _RUNNING.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Name what happens inside, one of ``STAGES``, for the clock that runs, if one does."""
    clock = _RUNNING.get()
    if clock is None:
        yield
        return
    with clock.run(name):
        yield
