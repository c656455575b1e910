"""``base_dtype`` of a LoRA run: what does not train is held in half precision, what trains stays float32.

Mixed precision computes linear layers and convolutions in bfloat16 whatever their weights are held in, so the frozen
ones may as well be held in it: the run computes the same and needs half the memory for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ullava.config.load import place
from ullava.config.schema import TrainRecipe
from ullava.errors import ConfigError

COMPUTED_IN_HALF = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
"""Layers whose weights mixed precision rounds for every product."""


def check_base_dtype(recipe: TrainRecipe, values: Mapping[str, Any], recipe_path: Path) -> list[str]:
    """Return one line for each thing that ``base_dtype`` does not go together with; ``values``: its ``training``."""
    if recipe.base_dtype == "float32":
        return []
    where = f"{place(recipe_path, 'base_dtype')}: base_dtype: {recipe.base_dtype}"
    problems = []
    if not values.get("bf16"):
        problems.append(f"{where} needs training.bf16: true, under which those weights are rounded anyway")
    if recipe.lora is None:
        problems.append(f"{where} is for adapters on a base that stays as it is: give lora, or leave it out")
    if recipe.init == "scratch":
        problems.append(f"{where}: init: scratch names no base, so what was rounded could not be saved as it was")
    if values.get("deepspeed"):
        problems.append(f"{where} and training.deepspeed: DeepSpeed chooses the type of all weights; keep one")
    if recipe.sharding != "none":
        problems.append(f"{where} and sharding: {recipe.sharding}, whose groups hold weights of one type; keep one")
    return problems


def check_has_base(base: Path | None, recipe_path: Path) -> None:
    """Refuse a run without a folder that its frozen weights are in as they were. Raises ConfigError."""
    if base is None:
        where = f"{place(recipe_path, 'base_dtype')}: base_dtype"
        raise ConfigError(f"{where}: init has no whole base, so the frozen weights would be saved rounded; use float32")


def is_mixed(model: nn.Module) -> bool:
    """Whether ``model`` holds weights of several types, so that it runs under mixed precision alone."""
    return len({value.dtype for value in model.parameters()}) > 1


def hold_frozen(model: nn.Module, dtype: str) -> None:
    """Turn the weights of linear layers and convolutions that require no gradient into ``dtype``, in place.

    Norms, biases and tables of words and positions keep their type, as buffers do. A head that is tied to a table of
    which rows train is a weight that trains.
    """
    wanted: torch.dtype = getattr(torch, dtype)
    for module in model.modules():
        if isinstance(module, COMPUTED_IN_HALF) and not module.weight.requires_grad:
            module.weight.data = module.weight.data.to(wanted)
