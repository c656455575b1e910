"""Numbers of a command line, each with its bounds: types of argparse's arguments."""

from __future__ import annotations

import argparse


def fraction(text: str) -> float:
    """Read a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, not '{text}'")
    return value


def port(text: str) -> int:
    """Read the number of a port; 0 stands for any that is free."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, not '{text}'")
    return int(text)


def frame_number(text: str) -> int:
    """Read the number of a frame; the first is 0."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected the number of a frame, 0 or more, not '{text}'")
    return int(text)
