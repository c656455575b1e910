"""A checkpoint is whole and its numbers are finite, or it is not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ullava.atomic_write import writing
from ullava.training.loop.checkpoint import FILES, seal
from ullava.training.loop.finite import check_finite

if TYPE_CHECKING:
    from ullava.training.loop.trainer import UllavaTrainer


class CheckpointSeal(TrainerCallback):
    """Follows a checkpoint from the first of its files (``begin``) to the last, and then notes which files there are.

    Training runs within ``whole_or_gone``, which removes one that the disk refuses to take whole.
    """

    def __init__(self, trainer: UllavaTrainer) -> None:
        self.trainer = trainer
        self._unfinished: Path | None = None

    def path(self) -> Path:
        """Return where the checkpoint of the present step lies, or would."""
        return self.trainer.folder.checkpoints / f"checkpoint-{self.trainer.state.global_step}"

    def is_there(self) -> bool:
        """Return whether the present step has a whole checkpoint."""
        return (self.path() / FILES).is_file()

    def begin(self) -> None:
        """Say that the present step's checkpoint is being written; raises UserError for numbers that are not finite."""
        check_finite(self.trainer, str(self.path()))
        self._unfinished = self.path()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note the files, when all processes have written theirs."""
        self.trainer.accelerator.wait_for_everyone()
        if args.should_save:
            seal(self.path())
        self._unfinished = None

    @contextmanager
    def whole_or_gone(self) -> Iterator[None]:
        """Remove what is unfinished when the disk refuses; the OSError names it. Older checkpoints stay."""
        try:
            yield
        except Exception as error:
            unfinished, self._unfinished = self._unfinished, None
            if unfinished is None:
                raise
            try:
                with writing(unfinished):
                    raise error
            except OSError:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
