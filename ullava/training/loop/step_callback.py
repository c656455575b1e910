"""What has to be known at the beginning of a run, of an epoch and at the end of each step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

if TYPE_CHECKING:
    from ullava.training.loop.trainer import UllavaTrainer


class StepCallback(TrainerCallback):
    """Tells the sampler which epoch begins, the trainer's window that a step is done, a finished run that it is."""

    def __init__(self, trainer: UllavaTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let a resumed run that has all its steps take no other; make up for the evaluation that one has missed."""
        self.trainer.first_step = state.global_step
        if state.global_step >= state.max_steps:
            control.should_training_stop = True
        elif self.trainer.missed_evaluation:
            self.trainer.evaluate()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the sampler's epoch (a resumed run begins inside one), of which no batch has come yet."""
        self.trainer.mixture_sampler.set_epoch(int((state.epoch or 0.0) + 1e-9))
        self.trainer.epoch_is_new = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Bring nothing at the end of an epoch of which no step was taken: it was there before."""
        if state.global_step == self.trainer.first_step:
            control.should_log = control.should_save = control.should_evaluate = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the step, unless all of its batches were skipped."""
        self.trainer.window.steps += int(self.trainer.step_was_judged)
        self.trainer.step_was_judged = False
