"""The golden cases of u-LLaVA itself."""

from __future__ import annotations

from typing import Any

from tests.golden import cases
from tests.golden.cases import read

__all__ = ["folders", "read"]


def folders(kind: str) -> list[Any]:
    """Parameters for a test: every folder of this kind, or one that skips and says why."""
    return cases.folders("ullava", kind)
