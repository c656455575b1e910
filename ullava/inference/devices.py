"""Where a model runs and what its weights are held in, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ullava.errors import UserError, did_you_mean

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def pick_device(name: str) -> torch.device:
    """Return the device of a name, or for ``auto`` the accelerator that torch finds (CUDA, MPS on a Mac), else the CPU.

    Raises:
        UserError: torch does not know the name, cannot reach the device, or it holds no values.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # "meta" holds no values, and some devices refuse only when asked to work
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UserError(f"device '{name}' cannot be used: {str(error).splitlines()[0]}") from error
    return device


def pick_training_device(training: Mapping[str, Any]) -> torch.device:
    """Return what a run trains on by its ``training`` table: the CPU with ``use_cpu``, else as for ``auto``."""
    return pick_device("cpu" if training.get("use_cpu") else "auto")


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto``: bfloat16 on an accelerator, float32 on a CPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise UserError(f"unknown dtype '{name}'{did_you_mean(name, DTYPES)}")
    return DTYPES[name]


def is_bfloat16_fast(device: torch.device) -> bool:
    """Whether products of bfloat16 take less time than of float32: on CUDA devices that have them, on CPUs with AMX.

    Other CPUs convert to float32 and back, up to twelve times as long for a product; MPS is not known.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()
