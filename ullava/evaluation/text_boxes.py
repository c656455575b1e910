"""Boxes that a model writes out as four numbers: the protocol ``text_box``, as ConvLLaVA measures RefCOCO.

arXiv 2405.15738, evaluation. The answer holds ``[x1, y1, x2, y2]`` in fractions of the center-padded square, or of a
thousandth of them: four numbers that add up to 4 or more are per mille. The first bracket that reaches four commas'
worth of text decides; what cannot be read is no box. Nothing is clipped and swapped corners are left as they are.
"""

from __future__ import annotations

import math
import re
from typing import Literal, cast

from ullava.geometry import norm_to_px, plan_view
from ullava.structures import BoxXYXY

TextBoxFrame = Literal["padsq", "norm"]
"""What the numbers are fractions of: the center-padded square (published ConvLLaVA), or the image itself."""

PER_MILLE_FROM = 4.0
_BRACKET = re.compile(r"\[(.*?),(.*?),(.*?),(.*?)\]")


def read_text_box(answer: str) -> BoxXYXY | None:
    """Return the four numbers of an answer as fractions of the frame, or None where there are none to read."""
    found = _BRACKET.search(answer)
    if found is None:
        return None
    try:
        numbers = [float(part.strip().strip("[").strip()) for part in found.groups()]
    except ValueError:
        return None
    if not all(math.isfinite(number) for number in numbers):
        return None
    unit = 1000.0 if sum(numbers) >= PER_MILLE_FROM else 1.0
    return cast(BoxXYXY, tuple(number / unit for number in numbers))


def place_text_box(box: BoxXYXY, orig_wh: tuple[int, int], frame: TextBoxFrame = "padsq") -> BoxXYXY:
    """Fractions of the frame -> original pixels of an image of ``orig_wh``.

    The image lies at a whole pixel of the padded square, as the view of the tower has it.
    """
    if frame == "norm":
        placed = norm_to_px(box, orig_wh)
    else:
        side = max(orig_wh)
        placed = plan_view("pad_center", orig_wh, side).to_orig([number * side for number in box])
    return cast(BoxXYXY, tuple(float(number) for number in placed))
