"""Run by test_memory.py in a process of its own: train as a recipe says and tell how far memory rose, in bytes.

python measured_memory.py RECIPE SETTING... -> {"measured": {SETTING: bytes}, "told": ...} as JSON on the last line.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from ullava.config.load import load_config
from ullava.config.schema import LossConfig, ModelConfig, TrainRecipe
from ullava.modeling.construction.build import build_model
from ullava.training.memory.estimate import estimate
from ullava.training.memory.subject import sample_batch
from ullava.training.optim.base_dtype import hold_frozen
from ullava.training.optim.lora import attach_adapters
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage

STEPS = 2


def status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def settle() -> int:
    """Give freed memory back, begin a new peak, and return what is resident now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def train(recipe: TrainRecipe, steps: int) -> None:
    """Real steps of a model of the recipe's sizes, on a batch like the one that was computed with."""
    path = Path(recipe.model)
    model, processor = build_model(load_config(ModelConfig, path), path.parent)
    if recipe.lora is not None:
        attach_adapters(model.core.adapted()[1], recipe.lora, "recipe")
        model.enable_input_require_grads()
    loss = recipe.loss or LossConfig()
    plan = apply_stage(model, recipe.stage, lora=recipe.lora is not None, quality_trains=loss.iou_score > 0)
    if recipe.base_dtype != "float32":
        hold_frozen(model, recipe.base_dtype)
    model.train()
    if recipe.training.get("gradient_checkpointing"):
        model.gradient_checkpointing_enable()
    plan.set_frozen_to_eval()
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], foreach=False)
    batch, _ = sample_batch(processor, recipe.stage, recipe.training["per_device_train_batch_size"], None, 0.5)
    inputs, targets = batch.usable()
    objective = GroundingObjective(loss, processor.masks)
    mixed = torch.autocast("cpu", torch.bfloat16) if recipe.training.get("bf16") else nullcontext()
    for _ in range(steps):
        with mixed:
            total = objective(model(**inputs.for_losses().as_kwargs()), targets).total
        total.backward()
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    path = Path(sys.argv[1])
    small = load_config(TrainRecipe, path, ["training.per_device_train_batch_size=1"])
    train(small, 1)  # what a first step loads and keeps (code, threads, tables) is no part of the figure
    measured = {}
    for setting in sys.argv[2:]:
        before = settle()
        train(load_config(TrainRecipe, path, [setting]), STEPS)
        measured[setting] = status("VmHWM") - before
    told = {setting: estimate(load_config(TrainRecipe, path, [setting]), path).total for setting in measured}
    print(json.dumps({"measured": measured, "told": told}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
