"""No step is taken with a gradient that is not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

if TYPE_CHECKING:
    from ullava.training.loop.trainer import UllavaTrainer


class GradientGuard(TrainerCallback):
    """Looks at the gradient before each step of the optimizer, when it is clipped already.

    Clipping a gradient whose norm is not finite leaves NaN in it. Such a step leaves the weights as they are and is
    counted as skipped, unless fp16's scaler answers it with a smaller scale, as in its first steps.
    """

    def __init__(self, trainer: UllavaTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop the gradient that is not finite in any process. Raises UserError after five in a row."""
        trainer = self.trainer
        if not trainer.is_finite_everywhere(self._norm()):
            trainer.model_wrapped.zero_grad()
            if not self._scale_can_fall():
                trainer.skip("gradient")
        elif trainer.step_was_judged:
            trainer.skipped_in_a_row = 0

    def _norm(self) -> torch.Tensor:
        """The norm of this process's gradients, a scalar on its device; DeepSpeed's engine alone has them there."""
        trainer = self.trainer
        if trainer.is_deepspeed_enabled:
            norm: Any = trainer.model_wrapped.get_global_grad_norm()
            return torch.as_tensor(0.0 if norm is None else norm, dtype=torch.float32, device=trainer.args.device)
        gradients = [weight.grad for weight in trainer.model.parameters() if weight.grad is not None]
        own = [each.to_local() if hasattr(each, "to_local") else each for each in gradients]
        return nn.utils.get_total_norm(own).to(trainer.args.device)

    def _scale_can_fall(self) -> bool:
        scaler = getattr(self.trainer.accelerator, "scaler", None)
        return scaler is not None and float(scaler.get_scale()) > 1.0
