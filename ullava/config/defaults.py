"""Defaults that recipes, commands and calls share."""

from __future__ import annotations

MAX_NEW_TOKENS = 128
"""The longest answer in tokens, wherever nobody says another length."""
