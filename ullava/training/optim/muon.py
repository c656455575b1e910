"""Muon for weight matrices, AdamW for the rest, as one optimizer for Hugging Face's Trainer.

Muon (Jordan et al. 2024) orthogonalizes the momentum of each matrix; training small models from scratch on the drawn
world it reaches the same loss in fewer steps than AdamW (models/tiny/README.md has the comparison). Embedding tables,
norms, biases and convolution kernels are no matrices in that sense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from ullava.config.schema import OptimizerConfig


def split_parameters(
    model: nn.Module, decay_names: Sequence[str]
) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters of ``model``: matrices for Muon; others with weight decay; others without."""
    decayed = set(decay_names)
    matrices, kernels, rest = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name not in decayed:
            rest.append(parameter)
        elif parameter.ndim == 2:
            matrices.append(parameter)
        else:
            kernels.append(parameter)
    return matrices, kernels, rest


def build_muon(model: nn.Module, decayed: Sequence[str], args: Any, config: OptimizerConfig) -> MuonWithAdam:
    """Return the optimizer of ``model``'s trainable parameters; ``args``: TrainingArguments."""
    matrices, kernels, rest = split_parameters(model, decayed)
    return MuonWithAdam(
        matrices,
        kernels,
        rest,
        lr=args.learning_rate,
        adam_lr=args.learning_rate * config.adam_share,
        weight_decay=args.weight_decay,
        momentum=config.momentum,
        betas=(args.adam_beta1, args.adam_beta2),
    )


class MuonWithAdam(Optimizer):
    """Two optimizers behind one face: schedulers see all groups, checkpoints hold both states."""

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        kernels: Sequence[nn.Parameter],
        rest: Sequence[nn.Parameter],
        *,
        lr: float,
        adam_lr: float,
        weight_decay: float,
        momentum: float,
        betas: tuple[float, float],
    ) -> None:
        self.muon = torch.optim.Muon(
            matrices, lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"
        )
        groups = [{"params": list(kernels), "weight_decay": weight_decay}, {"params": list(rest), "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW([group for group in groups if group["params"]], lr=adam_lr, betas=betas)
        super().__init__([*self.muon.param_groups, *self.adam.param_groups], {})
        self._link()

    def _link(self) -> None:
        """Share the groups' tables, so that a scheduler's learning rates reach both."""
        self.param_groups = [*self.muon.param_groups, *self.adam.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step both; ``closure`` is evaluated once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.muon.step()
        self.adam.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Both states by name."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what ``state_dict`` returned."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adam.load_state_dict(state_dict["adam"])
        self._link()
