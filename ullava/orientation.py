"""Which way up an image is: the EXIF orientation of a file, the turn it asks for, and what to say where it was missed.

A camera stores pixels as its sensor has them and notes how to turn them. Everything here speaks of the upright image;
annotations that were made on the stored pixels differ from it by that turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ullava.errors import UserError
from ullava.given_files import open_plain

UPRIGHT = 1
TURNS: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns the stored pixels upright, by the value of the EXIF orientation (EXIF 2.3, tag 274)."""
SIDEWAYS = frozenset({5, 6, 7, 8})
"""The orientations that exchange width and height."""
_MIRRORED_X = frozenset({2, 3, 6, 7})
_MIRRORED_Y = frozenset({3, 4, 7, 8})
"""Those that mirror the columns, or the rows, after width and height are exchanged."""
_TAG = 0x0112


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none, or none that can be understood.

    The pixels are sound whatever is written about them, so no malformed EXIF or XMP block is an error.
    """
    try:
        value = image.getexif().get(_TAG, UPRIGHT)
    except Exception:  # Pillow has a different one for every way in which a block may be malformed
        return UPRIGHT
    return value if isinstance(value, int) and value in TURNS else UPRIGHT


def upright(image: Image.Image) -> Image.Image:
    """Return the image as it is to be looked at."""
    turn = TURNS.get(orientation_of(image))
    return image if turn is None else image.transpose(turn)


def turn_plane(plane: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn [H, W] in stored pixels, a mask or labels, upright."""
    turned = plane.T if orientation in SIDEWAYS else plane
    turned = turned[:, ::-1] if orientation in _MIRRORED_X else turned
    return turned[::-1] if orientation in _MIRRORED_Y else turned


def turn_points(flat: Sequence[float], orientation: int, upright_hw: tuple[int, int]) -> list[float]:
    """Turn points x, y, x, y, ... in stored pixels upright, in an image that then is ``upright_hw`` (height, width)."""
    points = np.asarray(flat, dtype=np.float64).reshape(-1, 2)
    points = points[:, ::-1].copy() if orientation in SIDEWAYS else points.copy()
    if orientation in _MIRRORED_X:
        points[:, 0] = upright_hw[1] - points[:, 0]
    if orientation in _MIRRORED_Y:
        points[:, 1] = upright_hw[0] - points[:, 1]
    turned: list[float] = points.ravel().tolist()
    return turned


def missed_turn(
    image: Path, size_hw: tuple[int, int], stated_hw: Sequence[float | None], stored_pixels: bool = False
) -> str:
    """Say what the EXIF orientation of an image has to do with an annotation of another size; "" if nothing.

    ``size_hw`` is the (height, width) that was expected, ``stated_hw`` that of the annotation. ``stored_pixels``:
    whether stored pixels were expected (the option of ``ullava data import``), not the upright image.
    """
    if tuple(stated_hw) == size_hw or tuple(stated_hw) != size_hw[::-1]:
        return ""
    try:
        with open_plain(image) as file, Image.open(file) as opened:
            number = orientation_of(opened)
    except (UserError, OSError, ValueError, SyntaxError):  # read without its notes, see ullava.media.bare_images
        return ""
    if number not in SIDEWAYS:
        return ""
    if stored_pixels:
        return (
            f"; its EXIF orientation is {number}, and this was annotated on the upright image: import it without "
            "--stored-pixels"
        )
    return (
        f"; its EXIF orientation is {number}, and this was annotated on the pixels as they are stored, sideways: "
        "ullava data import with --stored-pixels turns the annotations upright too"
    )


def wrong_size(
    image: Path, size_hw: tuple[int, int], stated_hw: Sequence[float | None], said: str, stored_pixels: bool = False
) -> str:
    """Return the one line about an image and an annotation of different sizes; see ``missed_turn``.

    ``said``: who says the other size, with the verb: "the file says". A None of ``stated_hw`` is not said.
    """
    height, width = ("?" if side is None else f"{side:g}" for side in stated_hw)
    reason = missed_turn(image, size_hw, stated_hw, stored_pixels)
    return f"{image} has {size_hw[1]} x {size_hw[0]} pixels (width x height), but {said} {width} x {height}{reason}"
