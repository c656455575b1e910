"""A run that ends after so many seconds, with a learning rate that follows the share of them that is spent.

For comparing systems whose steps cost differently: each gets the same time, and its schedule (warm-up, decay to the
end) fits that time exactly. The schedule is Hugging Face's own; it is asked for the step at which a run of
``training.max_steps`` steps would be after the same share. ``max_steps`` stays the limit: the run ends with whichever
is used up first.
"""

from __future__ import annotations

import time
from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import SaveStrategy

from ullava.config.schema import BudgetConfig
from ullava.errors import ConfigError

CLOCKS = {"wall": time.monotonic, "cpu": time.process_time}
"""``cpu``: seconds of this process on any core, so that another program beside it costs nothing."""


class Budget(TrainerCallback, ExportableState):
    """Counts the seconds between the first step and the last; a resumed run goes on with those of its checkpoint."""

    def __init__(self, settings: BudgetConfig, processes: int = 1) -> None:
        if processes > 1:
            raise ConfigError(
                "budget: the clocks of several processes differ; train with one, or by training.max_steps"
            )
        self.settings = settings
        self.earlier = 0.0
        self.begun: float | None = None

    @property
    def spent(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return self.earlier + (0.0 if self.begun is None else CLOCKS[self.settings.clock]() - self.begun)

    def report(self) -> dict[str, Any]:
        """Return what metrics.json says of it."""
        return {"clock": self.settings.clock, "spent": round(self.spent, 3)}

    def share(self, step: float, steps: int) -> float:
        """What is used up, 0 to 1: of the seconds or of the steps, whichever is more."""
        return min(1.0, max(self.spent / self.settings.seconds, step / max(steps, 1)))

    def follow(self, scheduler: Any, steps: int) -> None:
        """Let ``scheduler``, made for ``steps`` steps, go by the share that is spent.

        Raises ConfigError for a kind that is no function of the step.
        """
        if not isinstance(scheduler, LambdaLR):
            name = type(scheduler).__name__
            raise ConfigError(f"training.lr_scheduler_type: {name} does not go with a budget; linear or cosine does")

        def by_share(rate: Any) -> Any:
            return lambda step: rate(self.share(step, steps) * steps)

        scheduler.lr_lambdas = [by_share(rate) for rate in scheduler.lr_lambdas]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up what a checkpoint had spent, and start the clock."""
        saved: Any = (state.stateful_callbacks or {}).get(type(self).__name__) or {}
        self.earlier = float(saved.get("attributes", {}).get("spent", 0.0))
        self.follow(kwargs["lr_scheduler"], state.max_steps)
        if self.earlier >= self.settings.seconds:
            control.should_training_stop = True
        self.begun = CLOCKS[self.settings.clock]()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop where the seconds are used up, with a checkpoint as the last step of a run has one."""
        if self.spent >= self.settings.seconds:
            control.should_training_stop = True
            control.should_save = control.should_save or args.save_strategy == SaveStrategy.STEPS

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop the clock."""
        self.earlier, self.begun = self.spent, None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; see ExportableState."""
        return {"args": {}, "attributes": {"spent": round(self.spent, 3)}}
