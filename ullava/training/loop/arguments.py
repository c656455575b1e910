"""A recipe's ``training`` table as Hugging Face TrainingArguments: checked by name and type, never guessed.

The names are those of the installed transformers (they change between releases), so a recipe that the library would
silently ignore or crash on is refused here with its file and line.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ullava.errors import ConfigError, did_you_mean

if typing.TYPE_CHECKING:
    from transformers import TrainingArguments

# Names of earlier releases and what says the same now (transformers 5.17 to 5.23).
RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps (a number below 1 is a ratio)",
    "no_cuda": "use_cpu",
    "group_by_length": "group_by_modality_length: true, beside training",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "fp16_backend": "fp16",
    "half_precision_backend": "fp16 or bf16",
    "save_safetensors": "nothing: weights are always safetensors",
    "overwrite_output_dir": "--resume or another --out",
    "logging_dir": "--out",
    "model_max_length": "text.max_length of the model",
    "cache_dir": "nothing: annotations are cached beside the files",
}

# Numbers: the least, and the most where a larger one would fill memory or mean something else.
BOUNDS: dict[str, tuple[float, float]] = {
    "per_device_train_batch_size": (1, 65_536),
    "per_device_eval_batch_size": (1, 65_536),
    "gradient_accumulation_steps": (1, 1_000_000),
    "eval_accumulation_steps": (1, 1_000_000),
    "dataloader_num_workers": (0, 1024),
    "dataloader_prefetch_factor": (1, 65_536),
    "num_train_epochs": (0, 1_000_000),
    "max_steps": (-1, 10**12),
    "learning_rate": (0, 1000),
    "weight_decay": (0, 1000),
    "warmup_steps": (0, 10**12),
    "adam_beta1": (0, 1),
    "adam_beta2": (0, 1),
    "adam_epsilon": (0, 1),
    "max_grad_norm": (0, math.inf),
    "logging_steps": (0, 10**12),
    "save_steps": (0, 10**12),
    "eval_steps": (0, 10**12),
    "eval_delay": (0, 10**12),
    "save_total_limit": (1, 10**12),
    "ddp_timeout": (1, 10**8),
    "ddp_bucket_cap_mb": (1, 10**6),
    "seed": (0, 2**32 - 1),
    "data_seed": (0, 2**32 - 1),
}
MORE_THAN_LEAST = {"num_train_epochs", "adam_epsilon", "logging_steps", "save_steps", "eval_steps"}
LESS_THAN_MOST = {"adam_beta1", "adam_beta2"}

# Names that the run itself decides.
RESERVED = {
    "output_dir": "the run folder is given with --out",
    "resume_from_checkpoint": "use --resume",
    "remove_unused_columns": "the collator's columns are all used",
    "label_names": "the model decides",
    "train_sampling_strategy": "the mixture decides the order; see group_by_modality_length",
    "label_smoothing_factor": "the objective has its own terms",
    "do_train": "this is a training run",
    "do_eval": "name an eval_dataset",
    "do_predict": "use `ullava eval`",
    "auto_find_batch_size": "it would change the run behind the recipe's back",
    "load_best_model_at_end": "the last weights are saved; checkpoints keep the others",
    "enable_jit_checkpoint": "SIGTERM writes a checkpoint as it is, and that one is between two steps",
    "ignore_data_skip": "a resumed run goes on with the samples that follow",
    "dataloader_in_order": "the mixture decides the order, whichever worker is the first",
    "push_to_hub": "checkpoints stay here; upload model/ of the run folder when it is done",
}


def build_training_arguments(
    training: dict[str, Any], *, recipe: Path, folder: Path, evaluates: bool
) -> TrainingArguments:
    """Return the arguments of one run. ``folder`` takes the checkpoints; ``evaluates``: there is an eval_dataset.

    Raises ConfigError that names ``recipe`` with the line of each wrong key.
    """
    from transformers import TrainingArguments

    values, problems = check_training_keys(training, recipe=recipe)
    if problems:
        raise ConfigError(problems)
    merged = {**_defaults(values, _device_kind(values, recipe), evaluates=evaluates), **values}
    if merged["eval_strategy"] != "no" and not evaluates:
        raise ConfigError(f"{_place(recipe, 'eval_strategy')}: training.eval_strategy: the recipe has no eval_dataset")
    if values.get("fsdp") and merged["use_cpu"]:
        where = f"{_place(recipe, 'fsdp')}: training.fsdp"
        raise ConfigError(f"{where}: accelerate ignores it on a CPU and would train with DDP; say sharding: fsdp2")
    merged["output_dir"] = str(folder)
    merged["remove_unused_columns"] = False
    try:
        arguments = TrainingArguments(**merged)
    except (ValueError, TypeError, ImportError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{_place(recipe, None)}: training: {first}") from error
    if problem := _report_problem(arguments.report_to):
        raise ConfigError(f"{_place(recipe, 'report_to')}: training.report_to: {problem}")
    return arguments


def _report_problem(names: Sequence[str]) -> str:
    """Say why nothing can be reported to one of ``names``; "" where all can be. HF's trainer would say it too late."""
    from transformers.integrations import integration_utils

    known = integration_utils.INTEGRATION_TO_CALLBACK
    for name in names:
        if name not in known:
            return f"unknown '{name}'{did_you_mean(name, [*known, 'none'])}"
        if name not in integration_utils.get_available_reporting_integrations():
            return f"{name} is not installed here"
    return ""


def check_training_keys(training: dict[str, Any], *, recipe: Path) -> tuple[dict[str, Any], list[str]]:
    """Return (the table, numbers written as text converted and ``bf16: auto`` decided, one line per problem)."""
    from transformers import TrainingArguments

    hints = _type_hints(TrainingArguments)
    values: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in _decided(training).items():
        where = f"{_place(recipe, key)}: training.{key}"
        if key in RESERVED:
            problems.append(f"{where}: not yours to set: {RESERVED[key]}")
        elif key not in hints:
            hint = f"; now: {RENAMED[key]}" if key in RENAMED else did_you_mean(key, hints)
            problems.append(f"{where}: not a TrainingArguments name{hint}")
        else:
            values[key], reason = _coerce(value, hints[key])
            reason = reason or _out_of_bounds(key, values[key])
            if reason:
                problems.append(f"{where}: {reason}")
    return values, problems


def _decided(training: dict[str, Any]) -> dict[str, Any]:
    """``bf16: auto``, which Hugging Face does not know, as true or false by the device that the run trains on."""
    from ullava.inference.devices import is_bfloat16_fast, pick_training_device

    if training.get("bf16") != "auto":
        return training
    return training | {"bf16": is_bfloat16_fast(pick_training_device(training))}


def _device_kind(values: dict[str, Any], recipe: Path) -> str:
    """Return what a run trains on: ``cpu``, ``cuda`` or ``mps``. Raises ConfigError where processes cannot share it."""
    from ullava.inference.devices import pick_training_device

    kind = pick_training_device(values).type
    if "WORLD_SIZE" in os.environ and kind not in ("cpu", "cuda"):
        where = f"{_place(recipe, None)}: training.use_cpu"
        raise ConfigError(f"{where}: processes of one run meet on CUDA or on the CPU, not on {kind}; say use_cpu: true")
    return kind


def _defaults(values: dict[str, Any], kind: str, *, evaluates: bool) -> dict[str, Any]:
    """What a recipe need not say. Memory is pinned for CUDA alone: elsewhere it is a copy for nothing, or refused."""
    on_cpu = kind == "cpu"
    defaults: dict[str, Any] = {
        "report_to": "none",
        "dataloader_pin_memory": kind == "cuda",
        "logging_steps": 10,
        "logging_nan_inf_filter": False,
        "eval_strategy": "epoch" if evaluates else "no",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "average_tokens_across_devices": False,
        "use_cpu": on_cpu,
    }
    if int(values.get("dataloader_num_workers") or 0) > 0:
        defaults["dataloader_persistent_workers"] = True
    if on_cpu and "WORLD_SIZE" in os.environ:
        defaults["ddp_backend"] = "gloo"
    return defaults


def _type_hints(cls: type) -> dict[str, Any]:
    """Return the annotation of every settable field; one that cannot be resolved accepts anything."""
    settable = {field.name for field in dataclasses.fields(cls) if field.init and not field.name.startswith("_")}
    try:
        resolved = typing.get_type_hints(cls)
    except NameError:
        resolved = {}
    return {name: resolved.get(name, Any) for name in settable}


def _coerce(value: Any, hint: Any) -> tuple[Any, str]:
    """Return (value, '') or (value, reason). YAML reads ``2e-5`` as text, so numbers in text are read here."""
    if hint is Any:
        return value, ""
    accepted = _members(hint)
    if value is None:
        known = type(None) in accepted or Any in accepted
        return value, "" if known else f"expected {_named(accepted)}, found nothing"
    if Any in accepted or any(isinstance(value, kind) for kind in accepted if kind not in (int, float)):
        return value, ""
    if isinstance(value, bool):
        if value is False and str in accepted:  # YAML reads a bare `no` as false, and `no` is a strategy
            return "no", ""
        return (value, "") if bool in accepted else (value, f"expected {_named(accepted)}, found {value!r}")
    if isinstance(value, int) and (int in accepted or float in accepted):
        return value, ""
    if float in accepted:
        try:
            return float(value), ""
        except (TypeError, ValueError):
            return value, f"expected {_named(accepted)}, found {value!r}"
    if isinstance(value, str) and any(isinstance(kind, type) and issubclass(kind, str) for kind in accepted):
        return value, ""
    simple = accepted <= {int, bool, str, dict, list, type(None)}
    return (value, f"expected {_named(accepted)}, found {value!r}") if simple else (value, "")


def _out_of_bounds(key: str, value: Any) -> str:
    """Say why a number cannot be the value of ``key``; '' where it can, and for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if not abs(value) <= sys.float_info.max:  # which isfinite cannot say of a whole number that is no float
        return f"has to be a finite number, found {value}"
    least, most = BOUNDS.get(key, (-math.inf, math.inf))
    if value < least or (value == least and key in MORE_THAN_LEAST):
        bound = f"above {least}" if key in MORE_THAN_LEAST else f"{least} or more"
        return f"has to be {bound}, found {value}"
    if value > most or (value == most and key in LESS_THAN_MOST):
        bound = f"below {most}" if key in LESS_THAN_MOST else f"{most} or less"
        return f"has to be {bound}, found {value}"
    return ""


def _members(hint: Any) -> set[Any]:
    """Return the plain types of a union, e.g. {int, NoneType} of ``int | None``."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return set().union(*(_members(part) for part in typing.get_args(hint)))
    origin = typing.get_origin(hint)
    return {origin if isinstance(origin, type) else hint}


def _named(accepted: set[Any]) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", dict: "a table"}
    found = [words[kind] for kind in words if kind in accepted and not (kind is int and float in accepted)]
    return " or ".join(found) or "another type"


def _place(recipe: Path, key: str | None) -> str:
    """Return ``file:line`` of ``training`` or of its ``key``, or the command line where the file has no such key."""
    try:
        root = yaml.compose(recipe.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return str(recipe)
    table = _child(root, "training")
    if table is None:
        return f"command line: {recipe}"
    if key is None:
        return f"{recipe}:{table[0].start_mark.line + 1}"
    entry = _child(table[1], key)
    return f"{recipe}:{entry[0].start_mark.line + 1}" if entry else "command line"


def _child(node: Any, key: str) -> tuple[Any, Any] | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((pair for pair in node.value if pair[0].value == key), None)
