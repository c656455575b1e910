"""SIGTERM and Ctrl-C: a run finishes its step, writes a checkpoint and leaves with 128 + the signal's number.

Several processes agree on it at the end of a step. Outside of the steps (while a model is built, evaluated alone, or
saved) there is no step to finish, and the run leaves at once; ``--resume`` does what is missing.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ullava.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_PRESS_SECONDS = 2.0
"""Within these, a second Ctrl-C is the first one: torchrun passes it on to processes that had it from the terminal."""


class StopSignals(TrainerCallback):
    """``with StopSignals() as stop``: takes the signals. As a callback it stops the Trainer at the end of a step.

    ``number``: the signal that asked for the end, None so far. In a thread that may not take signals it does nothing.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._since = 0.0
        self._patient = False
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()
        # Loader workers are forks and share this byte. While there are steps a signal to the whole group must not take
        # them from under the run; later they have to obey it as ever, or nobody could end them.
        self._stepping = mmap.mmap(-1, 1)

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Note a signal instead of leaving at once: there are steps at whose end it is obeyed."""
        self._stepping[0] = 1
        try:
            with self._mode(patient=True):
                yield
        finally:
            self._stepping[0] = 0

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Leave at once again, for the time of an evaluation between two steps. Raises Interrupted if it is time."""
        if self.number is not None:
            raise Interrupted(self.number)
        with self._mode(patient=False):
            yield

    def after_this_step(self, number: int) -> None:
        """Take a signal that has ended an evaluation between two steps as one that ends the run there."""
        self.number = number

    @contextmanager
    def _mode(self, *, patient: bool) -> Iterator[None]:
        before, self._patient = self._patient, patient
        try:
            yield
        finally:
            self._patient = before

    def _take(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._obey_in_a_fork(number)
        elif not self._patient:
            raise Interrupted(number)
        elif self.number is None:
            self.number, self._since = number, time.monotonic()
            text = f"{signal.Signals(number).name}: stopping after this step, with a checkpoint\n"
            if os.environ.get("RANK", "0") == "0":
                os.write(2, text.encode())  # print() may be what the signal has interrupted
        elif number == signal.SIGINT and time.monotonic() - self._since > SAME_PRESS_SECONDS:
            raise Interrupted(number)

    def _obey_in_a_fork(self, number: int) -> None:
        if not self._stepping[0]:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _in_worker(self, begin: Callable[[int], None] | None, worker: int) -> None:
        """Begin a loader worker: torch has just made SIGTERM end it."""
        signal.signal(signal.SIGTERM, self._take)
        if begin is not None:
            begin(worker)

    # ------------------------------------------------------------ as a callback of the Trainer
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let forked loader workers stay while the step is finished."""
        loader = getattr(kwargs["train_dataloader"], "base_dataloader", kwargs["train_dataloader"])  # of accelerate's
        if self._before and loader.num_workers > 0 and multiprocessing.get_start_method() == "fork":
            loader.worker_init_fn = partial(self._in_worker, loader.worker_init_fn)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop here, in all processes, if any of them was asked to: a checkpoint instead of an evaluation."""
        self._agree(args)
        if self.number is not None:
            control.should_training_stop = control.should_save = True
            control.should_evaluate = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave out what an epoch's end would bring; the epoch goes on with --resume."""
        if self.number is not None:
            control.should_log = control.should_save = control.should_evaluate = False

    def _agree(self, args: TrainingArguments) -> None:
        if args.world_size > 1:
            number = torch.tensor(self.number or 0, device=args.device)
            torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
            self.number = int(number) or None
