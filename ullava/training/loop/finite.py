"""No number that is not finite gets into a checkpoint or a saved model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ullava.errors import UserError


def is_finite(value: Any) -> bool:
    """Return whether all numbers of ``value`` are finite; what is no tensor of floats is."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.numel() == 0:
        return True
    own = value.detach()
    own = own.to_local() if hasattr(own, "to_local") else own
    # A finite sum has finite parts; only a sum that overflows needs the second look.
    return bool(torch.isfinite(own.sum(dtype=torch.float32))) or bool(torch.isfinite(own).all())


def check_finite(trainer: Any, what: str) -> None:
    """Raise UserError, before ``what`` is written, where weights or the optimizer's state are not finite.

    Every process has to call this: each looks at its share, and all of them raise.
    """
    found = sorted(name for name, value in _numbers(trainer) if not is_finite(value))
    if not _somewhere(trainer, bool(found)):
        return
    named = f": {', '.join(found[:3])}{' …' if len(found) > 3 else ''}" if found else ", in another process"
    raise UserError(
        f"step {trainer.state.global_step}: numbers of the run are not finite{named}; {what} is not written, and the "
        "checkpoint before stays; lower training.learning_rate, or clip with training.max_grad_norm"
    )


def plain(value: Any) -> Any:
    """Return what a log says of a figure: six decimals, and None where it is not finite (JSON has no NaN)."""
    if not isinstance(value, float):
        return value
    return round(value, 6) if math.isfinite(value) else None


def tensors_in(tree: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of nested tables and lists, such as an optimizer's state, with its place."""
    if isinstance(tree, torch.Tensor):
        yield name, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from tensors_in(value, f"{name}.{key}")
    elif isinstance(tree, (list, tuple)):
        for number, value in enumerate(tree):
            yield from tensors_in(value, f"{name}.{number}")


def _numbers(trainer: Any) -> Iterator[tuple[str, Any]]:
    for name, parameter in trainer.model.named_parameters():
        yield name, getattr(parameter, "ds_tensor", parameter)  # ZeRO-3 keeps this process's share there
    saved = trainer.model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in trainer.model.named_buffers() if name in saved)
    if trainer.optimizer is not None and not trainer.is_deepspeed_enabled:
        yield from tensors_in(trainer.optimizer.state_dict(), "optimizer")


def _somewhere(trainer: Any, here: bool) -> bool:
    if trainer.args.world_size == 1:
        return here
    flag = torch.tensor(float(here), device=trainer.args.device)
    return bool(trainer.accelerator.reduce(flag, reduction="sum") > 0)
