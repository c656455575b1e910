"""What a field of a configuration says of itself: bounds, which ``ullava.config.load`` checks, and its row."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal

CountKind = Literal["tokens", "masks", "boxes", "patches", "images", "plain_tokens"]
"""What a loss term may be a mean over."""
PER = "per"


def at_least(smallest: float, at_most: float | None = None) -> dict[str, float]:
    """Return field metadata: a number (where there is one) has to be ``smallest`` or more, ``at_most`` or less."""
    return {"at_least": smallest} | ({} if at_most is None else {"at_most": at_most})


def above(bound: float, at_most: float | None = None) -> dict[str, float]:
    """Return field metadata: a number (where there is one) has to be greater than ``bound``, ``at_most`` or less."""
    return {"above": bound} | ({} if at_most is None else {"at_most": at_most})


def weight_per(kind: CountKind) -> dict[str, Any]:
    """Return the metadata of a loss term's weight, 0 or more; the term is a mean over things of that ``kind``."""
    return {**at_least(0), PER: kind}


def rows_per(cls: type[Any]) -> dict[str, CountKind]:
    """Return the loss terms among the fields of the dataclass ``cls`` with what each is a mean over, in order."""
    return {entry.name: entry.metadata[PER] for entry in fields(cls) if PER in entry.metadata}
