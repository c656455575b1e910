"""Compares gradients with golden figures that go by the original's parameter names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ullava.modeling.weights.keymap import rename_keys
from ullava.modeling.weights.released import CORE_RULES, HEAD_RULES
from ullava.modeling.weights.sam import SAM_RULES

SAM = "visual_model."


def our_name(original: str, prefix: str) -> str:
    """Our name of a parameter; ``prefix`` is what the case puts before those of the language part."""
    if original.startswith(SAM):
        names = rename_keys({original.removeprefix(SAM): torch.zeros(())}, SAM_RULES).tensors
        return "mask_head.sam." + next(iter(names))
    return next(iter(rename_keys({original.removeprefix(prefix): torch.zeros(())}, CORE_RULES + HEAD_RULES).tensors))


def check_gradients(
    model: torch.nn.Module, expected: dict[str, Any], tolerances: dict[str, float], prefix: str, noise: Iterable[str]
) -> int:
    """Assert norm, sum and first values of every named gradient; return how many were compared."""
    parameters = dict(model.named_parameters())
    atol, rtol = tolerances["grad_atol"], tolerances["grad_rtol"]
    skipped = set(noise)
    compared = 0
    for original, figures in expected["params"].items():
        if original in skipped:
            continue
        parameter = parameters[our_name(original, prefix)]
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        norm = figures["norm"]
        assert abs(gradient.norm().item() - norm) <= atol + rtol * norm, original
        first = torch.tensor(figures["first"])
        torch.testing.assert_close(gradient.flatten()[: len(first)], first, rtol=rtol, atol=atol, msg=original)
        # Rounding of single values adds up in a sum, which may be far smaller than what it is made of.
        assert abs(gradient.double().sum().item() - figures["sum"]) <= atol + rtol * (abs(figures["sum"]) + norm), (
            original
        )
        compared += 1
    return compared


def rows_with_gradient(table: Tensor | None) -> list[int]:
    """Rows of a word table that got a gradient at all."""
    return [] if table is None else (table != 0).any(dim=1).nonzero().flatten().tolist()
