"""Finds the golden cases of the four other front-ends: below $ULLAVA_PARITY, by default ``../shared/parity``."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

DEFAULT = Path(__file__).resolve().parents[4] / "shared" / "parity"


@cache
def _all_cases() -> dict[tuple[str, str], list[Path]]:
    """Folders of every (system, case)."""
    root = Path(os.environ.get("ULLAVA_PARITY") or DEFAULT)
    root = root / "siblings" if (root / "siblings").is_dir() else root
    found: dict[tuple[str, str], list[Path]] = {}
    for file in sorted(root.rglob("case.json")):
        case = read(file.parent)
        found.setdefault((case.get("system", ""), case["case"]), []).append(file.parent)
    return found


@cache
def read(folder: Path, name: str = "case.json") -> Any:
    """A JSON file of a case."""
    return json.loads((folder / name).read_text(encoding="utf-8"))


def tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """``weights``, ``inputs`` or ``outputs`` of a case; none where the case has no such file."""
    file = folder / f"{name}.safetensors"
    return load_file(file) if file.is_file() else {}


def folders(system: str, *cases: str) -> list[Any]:
    """Parameters for a test: every folder of these cases, or one that skips and says why."""
    found = [folder for case in cases for folder in _all_cases().get((system, case), [])]
    if found:
        return [
            pytest.param(folder, id=f"{read(folder).get('set', folder.parent.name)}-{folder.name}") for folder in found
        ]
    missing = ", ".join(cases)
    return [
        pytest.param(Path(), id=missing, marks=pytest.mark.skip(reason=f"no golden case {system}/{missing} is here"))
    ]


def agree(found: torch.Tensor, wanted: torch.Tensor, folder: Path, tolerance: str = "tolerance") -> None:
    """Assert |found - wanted| <= atol + rtol |wanted| with the case's own numbers."""
    bounds = read(folder)[tolerance]
    torch.testing.assert_close(found, wanted, atol=bounds["atol"], rtol=bounds["rtol"], check_dtype=False)


GREY_LEVEL = 1 / 255 / 0.26
"""One grey level after CLIP's normalisation (its least deviation is above 0.26): what Pillow releases may differ by."""


def same_pixels(found: np.ndarray, wanted: np.ndarray) -> None:
    """Assert that uint8 pixels agree but for one grey level, in which Pillow's releases differ, and mostly exactly."""
    assert found.shape == wanted.shape
    difference = np.abs(found.astype(int) - wanted.astype(int))
    assert difference.max() <= 1 and difference.mean() < 0.1


def same_normalised_pixels(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """``same_pixels`` for pixels as CLIP reads them."""
    torch.testing.assert_close(found, wanted, atol=GREY_LEVEL, rtol=0, check_dtype=False)
    assert float((found - wanted).abs().mean()) < 0.1 * GREY_LEVEL
