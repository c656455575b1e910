"""The golden cases of the four other front-ends, and their tolerances."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from tests.golden.cases import folders, read

__all__ = ["agree", "folders", "read", "tensors"]


def tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """``weights``, ``inputs`` or ``outputs`` of a case; none where the case has no such file."""
    file = folder / f"{name}.safetensors"
    return load_file(file) if file.is_file() else {}


def agree(found: torch.Tensor, wanted: torch.Tensor, folder: Path, tolerance: str = "tolerance") -> None:
    """Assert |found - wanted| <= atol + rtol |wanted| with the case's own numbers."""
    bounds = read(folder)[tolerance]
    torch.testing.assert_close(found, wanted, atol=bounds["atol"], rtol=bounds["rtol"], check_dtype=False)
