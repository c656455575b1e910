"""Checkpoints of runs whose weights and optimizer are shared out (FSDP2), so that such a run can go on.

Weights are written whole, as in every other run. Each process writes its own share of the optimizer's state with
torch's distributed checkpoint, which finds the shares again for another number of processes too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.trainer import TRAINING_ARGS_NAME

from ullava.errors import UserError

OPTIMIZER_FOLDER = "optimizer_shares"
SCHEDULER_FILE = "scheduler.pt"


def save_optimizer_shares(trainer: Any, checkpoint: Path) -> None:
    """Write the optimizer's state share by share, and the schedule once. Every process has to call this."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    state = get_optimizer_state_dict(trainer.model, _plain_optimizer(trainer))
    try:
        dcp.save({"optimizer": state}, checkpoint_id=str(checkpoint / OPTIMIZER_FOLDER))
    except CheckpointException as error:  # no Exception, for all that it tells of a full disk
        raise RuntimeError(str(error)) from error
    if trainer.args.should_save:
        torch.save(trainer.lr_scheduler.state_dict(), checkpoint / SCHEDULER_FILE)


def load_optimizer_shares(trainer: Any, checkpoint: Path) -> None:
    """Take up what ``save_optimizer_shares`` wrote. Raises UserError for a checkpoint that has no shares."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    if not (checkpoint / OPTIMIZER_FOLDER / ".metadata").is_file():
        raise UserError(f"{checkpoint}: no {OPTIMIZER_FOLDER}/, so its run was not sharded: go on as it began")
    optimizer = _plain_optimizer(trainer)
    wanted = {"optimizer": get_optimizer_state_dict(trainer.model, optimizer)}
    dcp.load(wanted, checkpoint_id=str(checkpoint / OPTIMIZER_FOLDER))
    set_optimizer_state_dict(trainer.model, optimizer, wanted["optimizer"])
    trainer.lr_scheduler.load_state_dict(torch.load(checkpoint / SCHEDULER_FILE, weights_only=True))


def save_whole(trainer: Any, folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write the ``weights`` that were gathered, the processor and the arguments, as HF's ``save_model`` does."""
    trainer.model.save_pretrained(str(folder), state_dict=weights)
    trainer.processing_class.save_pretrained(str(folder))
    torch.save(trainer.args, folder / TRAINING_ARGS_NAME)


def share_out(model: nn.Module, weights: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Put this process's share in the place of each weight that comes whole.

    A hook for ``register_load_state_dict_pre_hook`` of a model under FSDP2; every process has read all weights.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    for name, parameter in model.named_parameters():
        whole = weights.get(prefix + name)
        if isinstance(parameter, DTensor) and whole is not None and not isinstance(whole, DTensor):
            moved = whole.to(parameter.device)
            mesh, placements = parameter.device_mesh, parameter.placements
            weights[prefix + name] = distribute_tensor(moved, mesh, placements, src_data_rank=None)


def _plain_optimizer(trainer: Any) -> torch.optim.Optimizer:
    """The optimizer itself, without accelerate's wrapper."""
    optimizer: torch.optim.Optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    return optimizer
