"""What of a recipe decides about memory: types, batch, recomputation, optimizer, and how processes share the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ullava.config.nodes import parse, read_file
from ullava.config.schema import TrainRecipe
from ullava.errors import ConfigError
from ullava.training.distributed.sharding import find_deepspeed
from ullava.training.loop.arguments import check_training_keys

BUCKET = 500_000_000
"""Numbers in a bucket of DeepSpeed, where its config does not say."""
ADAM_BYTES = 8
STATE_BYTES: Mapping[str, int] = {
    "adamw_torch": ADAM_BYTES, "adamw_torch_fused": ADAM_BYTES, "adamw_apex_fused": ADAM_BYTES, "sgd": 0,
    "adafactor": 0, "adagrad": 4, "lion_32bit": 4, "lion_8bit": 1, "adamw_bnb_8bit": 2, "adamw_8bit": 2,
    "paged_adamw_8bit": 2, "paged_adamw_32bit": ADAM_BYTES,
}  # fmt: skip
"""``training.optim`` -> bytes of state for a number that trains; what adafactor keeps of a matrix is a line."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """``kind``: nothing, DDP, FSDP2, ZeRO-1, ZeRO-2 or ZeRO-3; each field says how many processes share that.

    ``whole_dtype``: the type that DeepSpeed gives every weight. ``bucket``: numbers that lie in its buckets at a time.
    ``offloaded``: what it keeps in the memory of the host.
    """

    kind: str
    weights: int = 1
    gradients: int = 1
    optimizer: int = 1
    whole_dtype: torch.dtype | None = None
    bucket: int = 0
    offloaded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """``half``: what mixed precision computes in, None = float32. ``state_bytes``: of the optimizer for a number.

    ``foreach``: the step works on copies of all weights at a time. ``gathers``: micro-batches whose gradients are
    summed, so that these lie there all the time. ``unknown``: an optimizer whose state is not known.
    """

    rows: int
    half: torch.dtype | None
    checkpointing: bool
    checkpointing_options: Mapping[str, Any] | None
    state_bytes: int
    foreach: bool
    gathers: bool
    sharing: Sharing
    unknown: str = ""


def read_settings(recipe: TrainRecipe, recipe_path: Path, processes: int) -> MemorySettings:
    """Read them from ``recipe`` as ``processes`` processes would train it. Raises ConfigError as training does."""
    from transformers import TrainingArguments

    values, problems = check_training_keys(recipe.training, recipe=recipe_path)
    if problems:
        raise ConfigError(problems)
    half = torch.bfloat16 if values.get("bf16") else torch.float16 if values.get("fp16") else None
    fields = TrainingArguments.__dataclass_fields__
    default = fields["optim"].default
    optim = str(values.get("optim", getattr(TrainingArguments, "default_optim", default)))
    optim = getattr(optim, "value", optim)
    sharing = _sharing(recipe, values, half, processes)
    on_cpu = bool(values.get("use_cpu"))
    return MemorySettings(
        rows=int(values.get("per_device_train_batch_size", fields["per_device_train_batch_size"].default)),
        half=None if sharing.whole_dtype is not None else half,
        checkpointing=bool(values.get("gradient_checkpointing")),
        checkpointing_options=values.get("gradient_checkpointing_kwargs"),
        state_bytes=STATE_BYTES.get(optim, ADAM_BYTES),
        foreach=optim == "adamw_torch" and not on_cpu and not sharing.kind.startswith("ZeRO"),
        gathers=int(values.get("gradient_accumulation_steps", 1)) > 1 or recipe.passes != "one",
        sharing=sharing,
        unknown="" if optim in STATE_BYTES or recipe.optimizer.kind == "muon" else optim,
    )


def _sharing(recipe: TrainRecipe, values: Mapping[str, Any], half: torch.dtype | None, processes: int) -> Sharing:
    if values.get("deepspeed"):
        return _zero(_deepspeed_table(values["deepspeed"]), half, processes)
    if recipe.sharding == "fsdp2":
        return Sharing("FSDP2", processes, processes, processes)
    return Sharing("DDP" if processes > 1 else "nothing")


def _zero(table: Mapping[str, Any], half: torch.dtype | None, processes: int) -> Sharing:
    """How a config of DeepSpeed shares; ``auto`` of a type is the recipe's."""
    settings = table.get("zero_optimization") or {}
    stage = int(settings.get("stage", 0))
    whole = torch.float32
    for key, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        enabled = (table.get(key) or {}).get("enabled", False)
        if enabled is True or (enabled == "auto" and half is dtype):
            whole = dtype
    size = settings.get("reduce_bucket_size", BUCKET)
    bucket = (BUCKET if size == "auto" else int(float(size))) * (2 if settings.get("overlap_comm") else 1)
    places = {"optimizer": "offload_optimizer", "weights": "offload_param"}
    offloaded = {part for part, key in places.items() if (settings.get(key) or {}).get("device", "none") != "none"}
    return Sharing(
        f"ZeRO-{stage}",
        weights=processes if stage >= 3 else 1,
        gradients=processes if stage >= 2 else 1,
        optimizer=processes if stage >= 1 else 1,
        whole_dtype=whole,
        bucket=bucket,
        offloaded=frozenset(offloaded),
    )


def _deepspeed_table(settings: Any) -> Mapping[str, Any]:
    found = find_deepspeed(settings)
    if not isinstance(found, str):
        table: Mapping[str, Any] = found
        return table
    problems: list[str] = []
    root = parse(read_file(Path(found)), found, problems)
    if problems:
        raise ConfigError(problems)
    plain = _plain(root)
    return plain if isinstance(plain, dict) else {}


def _plain(node: Any) -> Any:
    """What a node of the reader (ullava.config.nodes) holds, without places."""
    value = getattr(node, "value", node)
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value
