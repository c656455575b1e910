"""A process of several that has no usable row in a batch takes part with a zero, so that nobody waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ullava.errors import UserError
from ullava.examples import Batch
from ullava.modeling.vision.strategy import zero_loss_of
from ullava.training.distributed.sharding import is_sharded


def check_empty(trainer: Any, batches: Sequence[Batch]) -> None:
    """Refuse batches without a usable row where the processes would wait for each other without end.

    One process leaves such a batch out, and under DDP a process takes part with a zero. Where weights are divided
    (FSDP2, DeepSpeed), or a batch is run several times, every process has to run the network. Raises UserError.
    """
    if trainer.args.world_size == 1 or all(batch.inputs is not None for batch in batches):
        return
    if is_sharded(trainer.model) or trainer.is_deepspeed_enabled or trainer.passes.repeats:
        raise UserError(
            f"step {trainer.state.global_step + 1}: no sample of a process's batch is usable (all are in "
            f"{trainer.bad_samples.path}); with several processes only plain DDP with passes: one can go on without: "
            "mend the samples, or raise training.per_device_train_batch_size"
        )


def take_part(trainer: Any, model: nn.Module, step: Any) -> torch.Tensor:
    """Return the loss of a batch without rows, zero; do what the other processes wait for.

    ``step``: the counts of the optimizer step over all processes; None with a single process.
    """
    if trainer.args.world_size == 1:
        return zero_loss_of(model)
    loss = _nothing_of(model)
    if not trainer.is_finite_everywhere(loss):
        trainer.skip("loss")
    elif step is not None and any(step.stacked()):
        trainer.step_was_judged = True
    return loss


def _nothing_of(model: nn.Module) -> torch.Tensor:
    """The zero of ``model``. DDP shares the gradients of what went through its own forward alone."""
    if not isinstance(model, DistributedDataParallel):
        return zero_loss_of(model)
    network = model.module
    own = vars(network).get("forward")  # accelerate's, where it casts
    network.forward = lambda: zero_loss_of(network)
    try:
        zero: torch.Tensor = model()
    finally:
        del network.forward
        if own is not None:
            network.forward = own
    return zero
