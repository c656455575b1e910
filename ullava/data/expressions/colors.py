"""Names of colors by hue, saturation and value; what lies between two names has none.

An object has a color where most of its pixels have that name and no other name comes near, and certainly does not have
one where next to none of its pixels could be called so. Between the two nobody is asked.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from ullava.structures import BoxXYXY, ImageArray, MaskArray

NAMES: tuple[str, ...] = (
    "black", "white", "gray", "red", "orange", "brown", "yellow", "green", "blue", "purple", "pink",
)  # fmt: skip
MOST, MOST_OF_BOX = 0.5, 0.65
"""The share of an object's pixels that its color has, by its mask, and by the middle of its box alone."""
SECOND = 0.15
"""What another color may have at most."""
HARDLY = 0.05
"""The share below which an object certainly is not of a color."""
OF_SURROUNDINGS = 0.2
"""The share of its surroundings that may have the color of an object without a mask."""
LEAST_PIXELS = 150
COLORFUL = 0.06
"""Mean chroma (largest minus smallest channel) of an image; one below it is black and white, and tells no color."""
_LARGEST = 160
"""Objects are looked at this large, on their long side: colors are no matter of detail."""


def named_pixels(rgb: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Return the place in ``NAMES`` of each pixel, int8 of the shape of ``rgb`` without its last axis; -1 = none."""
    flat = np.ascontiguousarray(rgb.reshape(1, -1, 3))
    hsv = cv2.cvtColor(flat.astype(np.float32) / 255, cv2.COLOR_RGB2HSV).reshape(-1, 3)
    hue, saturation, value = hsv[:, 0], hsv[:, 1], hsv[:, 2]
    strong = saturation >= 0.38
    rules = {
        "black": (value < 0.26) & (value * saturation < 0.08),
        "white": (value > 0.82) & (saturation < 0.1),
        "gray": (value > 0.3) & (value < 0.56) & (saturation < 0.12),
        "red": strong & (value > 0.35) & ((hue < 9) | (hue > 347)) & (saturation > 0.55),
        "orange": (hue > 17) & (hue < 36) & (saturation > 0.65) & (value > 0.75),
        "brown": (hue > 8) & (hue < 40) & (saturation > 0.25) & (saturation < 0.8) & (value > 0.2) & (value < 0.58),
        "yellow": strong & (hue > 46) & (hue < 63) & (value > 0.65) & (saturation > 0.5),
        "green": (hue > 75) & (hue < 160) & (saturation > 0.25) & (value > 0.2),
        "blue": (hue > 200) & (hue < 250) & (saturation > 0.4) & (value > 0.38),
        "purple": (hue > 262) & (hue < 300) & (saturation > 0.35) & (value > 0.35),
        "pink": (hue > 312) & (hue < 352) & (saturation > 0.2) & (saturation < 0.65) & (value > 0.65),
    }
    named = np.full(len(hsv), -1, dtype=np.int8)
    for place, name in enumerate(NAMES):
        named[rules[name]] = place
    return named.reshape(rgb.shape[:-1])


def may_be(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return for each pixel [n, 3] which of ``NAMES`` somebody could give it, bool [n, names]: wider than the names."""
    flat = np.ascontiguousarray(rgb.reshape(1, -1, 3))
    hsv = cv2.cvtColor(flat.astype(np.float32) / 255, cv2.COLOR_RGB2HSV).reshape(-1, 3)
    hue, saturation, value = hsv[:, 0], hsv[:, 1], hsv[:, 2]
    colored = (saturation > 0.16) & (value > 0.15)
    wide = {
        "black": value < 0.4,
        "white": (value > 0.6) & (saturation < 0.25),
        "gray": (saturation < 0.25) & (value > 0.2) & (value < 0.88),
        "red": colored & ((hue < 20) | (hue > 328)),
        "orange": colored & (hue > 6) & (hue < 48) & (value > 0.45),
        "brown": colored & ((hue < 52) | (hue > 345)) & (value < 0.75),
        "yellow": colored & (hue > 36) & (hue < 75),
        "green": colored & (hue > 60) & (hue < 185),
        "blue": colored & (hue > 170) & (hue < 268),
        "purple": colored & (hue > 240) & (hue < 335),
        "pink": colored & ((hue > 290) | (hue < 15)) & (value > 0.45),
    }
    return np.stack([wide[name] for name in NAMES], axis=1)


def is_colorful(image_rgb_u8: ImageArray) -> bool:
    """Whether an image, uint8 [H, W, 3], shows colors at all."""
    pixels = image_rgb_u8[::4, ::4].astype(np.float32)
    return float((pixels.max(axis=-1) - pixels.min(axis=-1)).mean() / 255) >= COLORFUL


def shares(rgb: NDArray[np.uint8]) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Return for pixels [n, 3] the share of each color for certain, and the share that could be called so."""
    named = np.bincount(named_pixels(rgb) + 1, minlength=len(NAMES) + 1)[1:] / len(rgb)
    loose = may_be(rgb).mean(axis=0)
    return dict(zip(NAMES, named.tolist(), strict=True)), dict(zip(NAMES, loose.tolist(), strict=True))


def color_of_mask(image_rgb_u8: ImageArray, box: BoxXYXY, mask: MaskArray) -> tuple[str | None, frozenset[str]]:
    """Return the color of an object where it is clear, and the colors that it certainly does not have, by its ``mask``.

    Its rim is left out: it mixes with what is behind.
    """
    part, step = _part(image_rgb_u8, box)
    left, top, right, bottom = _pixels(image_rgb_u8, box)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8))[top:bottom, left:right] > 0
    pixels = part[inner[::step, ::step]]
    color = _clear(pixels, MOST)
    return color, _certainly_not(pixels, color)


def color_of_box(image_rgb_u8: ImageArray, box: BoxXYXY, others: MaskArray) -> tuple[str | None, frozenset[str]]:
    """Return the same by the ``box`` alone. ``others`` bool [H, W]: where boxes of other objects are.

    The middle half has to have the color, and what is around the box must not: else it may be that of the background.
    """
    x0, y0, x1, y1 = box
    wide, high = (x1 - x0) / 4, (y1 - y0) / 4
    middle = (x0 + wide, y0 + high, x1 - wide, y1 - high)
    part, step = _part(image_rgb_u8, middle)
    left, top, right, bottom = _pixels(image_rgb_u8, middle)
    free = ~others[top:bottom, left:right][::step, ::step]
    whole = _part(image_rgb_u8, box)[0].reshape(-1, 3)
    color = _clear(part[free], MOST_OF_BOX) if free.size and free.mean() > 0.6 else None
    if color is not None:
        outer = (x0 - wide, y0 - high, x1 + wide, y1 + high)
        around, step = _part(image_rgb_u8, outer)
        left, top, _, _ = _pixels(image_rgb_u8, outer)
        columns = np.arange(around.shape[1]) * step + left
        rows = np.arange(around.shape[0]) * step + top
        outside = ~(((rows >= y0) & (rows < y1))[:, None] & ((columns >= x0) & (columns < x1))[None])
        if outside.any() and (named_pixels(around[outside]) == NAMES.index(color)).mean() > OF_SURROUNDINGS:
            color = None
    return color, _certainly_not(whole, color)


def _clear(pixels: NDArray[np.uint8], most: float) -> str | None:
    """Return the color that nearly all ``pixels`` [n, 3] have, if they have one."""
    if len(pixels) < LEAST_PIXELS:
        return None
    certain, _ = shares(pixels)
    first = max(NAMES, key=lambda name: certain[name])
    clear = certain[first] >= most and all(certain[name] <= SECOND for name in NAMES if name != first)
    return first if clear else None


def _certainly_not(pixels: NDArray[np.uint8], color: str | None) -> frozenset[str]:
    if len(pixels) < LEAST_PIXELS:
        return frozenset()
    _, loose = shares(pixels)
    return frozenset(name for name in NAMES if loose[name] <= HARDLY and name != color)


def _pixels(image: ImageArray, box: BoxXYXY) -> tuple[int, int, int, int]:
    """Return a box in whole pixels of the image."""
    x0, y0, x1, y1 = box
    height, width = image.shape[:2]
    return max(int(x0), 0), max(int(y0), 0), min(int(np.ceil(x1)), width), min(int(np.ceil(y1)), height)


def _part(image: ImageArray, box: BoxXYXY) -> tuple[NDArray[np.uint8], int]:
    """Return the pixels of a box, every ``step``-th where it is large, and the step."""
    left, top, right, bottom = _pixels(image, box)
    step = max(1, max(bottom - top, right - left) // _LARGEST)
    return image[top:bottom:step, left:right:step], step
