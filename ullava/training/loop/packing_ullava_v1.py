"""What of u-LLaVA's first release does not go with packed rows."""

from __future__ import annotations

from typing import Any


def packing_problems(model: Any, processor: Any) -> list[str]:
    """Return why the dialogues of a model that reproduces that release cannot share rows."""
    reproduces = processor.as_released or model.config.marker_gradient_only
    return ["compat ullava_v1 has rules for the beginning of a row"] * reproduces
