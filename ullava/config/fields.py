"""Bounds of numbers in configuration files, as field metadata; ``ullava.config.load`` checks them."""

from __future__ import annotations


def at_least(smallest: float, at_most: float | None = None) -> dict[str, float]:
    """Return field metadata: a number (where there is one) has to be ``smallest`` or more, ``at_most`` or less."""
    return {"at_least": smallest} | ({} if at_most is None else {"at_most": at_most})


def above(bound: float, at_most: float | None = None) -> dict[str, float]:
    """Return field metadata: a number (where there is one) has to be greater than ``bound``, ``at_most`` or less."""
    return {"above": bound} | ({} if at_most is None else {"at_most": at_most})
