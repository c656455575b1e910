"""Bounds of numbers in configuration files, as field metadata; ``ullava.config.load`` checks them."""

from __future__ import annotations


def at_least(smallest: float) -> dict[str, float]:
    """Return field metadata: a number (where there is one) has to be ``smallest`` or more."""
    return {"at_least": smallest}


def above(bound: float) -> dict[str, float]:
    """Return field metadata: a number (where there is one) has to be greater than ``bound``."""
    return {"above": bound}
