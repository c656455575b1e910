"""A checkpoint is whole and its numbers are finite, or it is not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from ullava.atomic_write import writing
from ullava.training.loop.checkpoint import FILES, STATE, seal
from ullava.training.loop.finite import check_finite

if TYPE_CHECKING:
    from ullava.training.loop.trainer import UllavaTrainer


class CheckpointSeal(TrainerCallback):
    """Follows a checkpoint from the first of its files (``begin``) to the last, and then gives it its name.

    The Trainer writes into ``drafts``. When all processes are through, the files are noted and the folder is moved to
    ``path``; only then older checkpoints go. Training runs within ``whole_or_gone``, which removes one that the disk
    refuses to take whole.
    """

    def __init__(self, trainer: UllavaTrainer) -> None:
        self.trainer = trainer
        self._writing = False

    @property
    def drafts(self) -> Path:
        """Where checkpoints lie that are being written."""
        return self.trainer.folder.drafts

    def path(self) -> Path:
        """Return where the checkpoint of the present step lies, or would."""
        return self.trainer.folder.checkpoints / f"checkpoint-{self.trainer.state.global_step}"

    def is_there(self) -> bool:
        """Return whether the present step has a whole checkpoint."""
        return (self.path() / FILES).is_file()

    def begin(self) -> None:
        """Say that the present step's checkpoint is being written; raises UserError for numbers that are not finite."""
        check_finite(self.trainer, str(self.path()))
        self._writing = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note the files and give the checkpoint its name, when all processes have written theirs."""
        draft, path = self.drafts / self.path().name, self.path()
        is_best = state.best_model_checkpoint == str(draft)
        if is_best:
            state.best_model_checkpoint = str(path)
        self.trainer.accelerator.wait_for_everyone()
        if args.should_save:
            with writing(path, draft):
                if is_best:
                    state.save_to_json(str(draft / STATE))
                seal(draft)
                os.replace(draft, path)
                self.drafts.rmdir()
            rotate_checkpoints(
                str(path.parent), args.save_total_limit, state.best_model_checkpoint, use_mtime=False
            )  # the clock may have been set back
        self._writing = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save after all where a signal has ended an evaluation and HF, which keeps the best alone, saw no new best.

        One process leaves an evaluation, several finish it first (they would not all look at the same moment).
        """
        left = self.trainer.stop.number is not None and control.should_training_stop and args.world_size == 1
        if left and not self.is_there():
            control.should_save = True

    @contextmanager
    def whole_or_gone(self) -> Iterator[None]:
        """Remove what is unfinished when the disk refuses; the OSError names it. Older checkpoints stay."""
        try:
            yield
        except Exception as error:
            unfinished, self._writing = self._writing, False
            if not unfinished:
                raise
            try:
                with writing(self.path(), self.drafts):
                    raise error
            except OSError:
                shutil.rmtree(self.drafts, ignore_errors=True)
                raise
