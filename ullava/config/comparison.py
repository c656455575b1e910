"""What ``ullava compare`` reads: several models, or one in several settings, asked the same questions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ullava.config.fields import at_least

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One line of a comparison.

    ``model``: a name or folder of one with weights. ``overrides``: of its vision encoder (docs/vision_encoders.md).
    ``runs``: the run folders that made it, whose steps and seconds are told beside its figures.
    """

    model: str
    overrides: dict[str, Any] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareRecipe:
    """``recipe``: the evaluation that every contender goes through, by name or path; its own model does not count.

    ``contenders``: label -> model; a label is the name of a folder too. ``data_root``: in the place of the recipe's.
    ``images``: costs are measured on the first so many items of each of its data sets.
    """

    recipe: str
    contenders: dict[str, Contender]
    data_root: str | None = None
    images: int = field(default=40, metadata=at_least(1, 1_000_000))

    def __post_init__(self) -> None:
        """Refuse labels that are no names of folders, and a comparison of nothing (ValueError)."""
        if not self.contenders:
            raise ValueError("contenders: there is nothing to compare")
        wrong = [label for label in self.contenders if not _LABEL.fullmatch(label)]
        if wrong:
            raise ValueError(f"contenders: '{wrong[0]}' has to be made of letters, digits, '_', '-' and '.'")
