"""The golden cases of the four other vision encoders, and their tolerances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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


GRAY_LEVEL = 1 / 255 / 0.26
"""One gray level after CLIP's normalization (its least deviation is above 0.26): what Pillow releases may differ by."""


def same_pixels(found: np.ndarray, wanted: np.ndarray) -> None:
    """Assert that uint8 pixels agree but for one gray level, in which Pillow's releases differ, and mostly exactly."""
    assert found.shape == wanted.shape
    difference = np.abs(found.astype(int) - wanted.astype(int))
    assert difference.max() <= 1 and difference.mean() < 0.1


def same_normalized_pixels(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """``same_pixels`` for pixels as CLIP reads them."""
    torch.testing.assert_close(found, wanted, atol=GRAY_LEVEL, rtol=0, check_dtype=False)
    assert float((found - wanted).abs().mean()) < 0.1 * GRAY_LEVEL
