"""Sizes of images that an annotation file states, or leaves out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ullava.errors import DataError
from ullava.orientation import wrong_size


def check_stated_size(
    path: Path, size_hw: tuple[int, int], stated_hw: tuple[Any, Any], consequence: str = "", stored_pixels: bool = False
) -> None:
    """Raise DataError where a file states another height or width than the image has, or something that is no number.

    What is missing, null, 0 or negative states nothing: the image's own size counts. ``consequence`` is told too.
    ``stored_pixels``: see ``missed_turn``.
    """
    stated = [_pixels(value, name) for value, name in zip(stated_hw, ("height", "width"), strict=True)]
    if all(told is None or told == side for told, side in zip(stated, size_hw, strict=True)):
        return
    reason = wrong_size(path, size_hw, stated, "the file says", stored_pixels)
    raise DataError(f"{reason}; {consequence}" if consequence else reason)


def _pixels(value: Any, name: str) -> float | None:
    if value is None:
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise DataError(f"'{name}' has to be a number of pixels, not {value!r:.40}") from None
    return number if number > 0 else None
