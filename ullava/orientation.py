"""Which way up an image is: the EXIF orientation of a file, the turn it asks for, and what to say where it was missed.

A camera stores pixels as its sensor has them and notes how to turn them. Everything here speaks of the upright image;
annotations that were made on the stored pixels differ from it by that turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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


def missed_turn(image: Path, upright_hw: tuple[int, int], stated_hw: tuple[int, ...]) -> str:
    """Say why an annotation does not fit: "" unless it was made on the stored pixels of a sideways image.

    ``upright_hw`` is the size (height, width) that the image has upright, ``stated_hw`` that of the annotation.
    """
    if tuple(stated_hw) == upright_hw or tuple(stated_hw) != upright_hw[::-1]:
        return ""
    try:
        with open_plain(image) as file, Image.open(file) as opened:
            number = orientation_of(opened)
    except (UserError, OSError, ValueError, SyntaxError):  # read without its notes, see ullava.data.bare_images
        return ""
    if number not in SIDEWAYS:
        return ""
    return (
        f"; the file is stored sideways and its EXIF orientation ({number}) turns it, so this was annotated on the "
        "stored pixels: ullava data import with --stored-pixels turns the annotations too"
    )


def wrong_size(image: Path, upright_hw: tuple[int, int], stated_hw: tuple[int, ...], said: str) -> str:
    """Return the one line about an image and an annotation of different sizes.

    ``said`` is who says the other size, with the verb: "the file says".
    """
    sizes = [f"{width} x {height}" for height, width in (upright_hw, stated_hw)]
    reason = missed_turn(image, upright_hw, stated_hw)
    return f"{image.name} has {sizes[0]} pixels (width x height), but {said} {sizes[1]}{reason}"
