"""``base_dtype`` of a LoRA run: what does not train is held in half precision or less, what trains stays float32.

Mixed precision computes linear layers and convolutions in bfloat16 whatever their weights are held in, so the frozen
ones may as well be held in it: the run computes the same and needs half the memory for them. ``nf4`` (QLoRA, arXiv
2305.14314) and ``int8`` hold the large linear layers in 4 and 8 bits, all other frozen ones in bfloat16; gradients run
through them to adapters, projectors and heads. What peft's ``prepare_model_for_kbit_training`` does is done here
already: norms and word tables are float32, what is frozen needs no gradient, recomputed layers get one at the words.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ullava.config.load import place
from ullava.config.quantization import QUANTIZATIONS
from ullava.config.schema import TrainRecipe
from ullava.inference.devices import pick_training_device
from ullava.modeling.construction.quantized import MakeLayer, lacking, replace_linear

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
    if recipe.base_dtype in QUANTIZATIONS:
        reason = lacking(recipe.base_dtype, pick_training_device(values), trains=True)
        problems += [] if reason is None else [f"{place(recipe_path, 'base_dtype')}: base_dtype: {reason}"]
    return problems


def is_mixed(model: nn.Module) -> bool:
    """Whether ``model`` holds weights of several types, so that it runs under mixed precision alone."""
    return len({value.dtype for value in model.parameters()}) > 1


def hold_frozen(model: nn.Module, dtype: str, make: MakeLayer | None = None, kept: tuple[str, ...] = ()) -> None:
    """Turn the weights of linear layers and convolutions that require no gradient into ``dtype``, in place.

    Norms, biases and tables of words and positions keep their type, as buffers do, and so do weights whose names begin
    with one of ``kept``. A head that is tied to a table of which rows train is a weight that trains. ``make``: what
    makes the large linear layers where ``dtype`` is one of QUANTIZATIONS; the others are bfloat16 then.
    """
    if make is not None:
        replace_linear(model, dtype, make, wanted=lambda layer: not layer.weight.requires_grad)
    wanted: torch.dtype = getattr(torch, "bfloat16" if dtype in QUANTIZATIONS else dtype)
    for name, module in model.named_modules():
        if not isinstance(module, COMPUTED_IN_HALF) or f"{name}.".startswith(kept):
            continue
        if not module.weight.requires_grad and module.weight.is_floating_point():
            module.weight.data = module.weight.data.to(wanted)
