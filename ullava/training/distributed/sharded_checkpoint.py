"""Checkpoints of runs whose weights and optimizer are shared out (FSDP2), so that such a run can go on.

Weights are written whole, as in every other run. Each process writes its own share of the optimizer's state with
torch's distributed checkpoint, which finds the shares again for another number of processes too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ullava.errors import UserError
from ullava.modeling.loading.weight_files import read_state_dict

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


def load_whole_weights(model: Any, checkpoint: Path) -> None:
    """Give every process its share of the weights that ``checkpoint`` holds whole (safetensors)."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    weights: dict[str, Any] = dict(read_state_dict(checkpoint))
    # Tied copies are not in the file, and names and shapes were compared before
    # (ullava.training.loop.run.check_weights).
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, strict=False))


def _plain_optimizer(trainer: Any) -> torch.optim.Optimizer:
    """The optimizer itself, without accelerate's wrapper."""
    optimizer: torch.optim.Optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    return optimizer
