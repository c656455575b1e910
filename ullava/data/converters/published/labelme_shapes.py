"""Shapes of LabelMe and of X-AnyLabeling as areas of an image: outlines, and masks that are pasted in.

A rectangle has two corners that face each other, or all four (X-AnyLabeling). ``rotation`` is a rectangle that is
turned (four corners), ``circle`` a center and a point of its edge, ``mask`` two corners of a box with the base64 of a
PNG of its size, everything but 0 inside (https://github.com/wkentaro/labelme,
https://github.com/CVHub520/X-AnyLabeling).
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ullava.data.annotations.json_stream import is_finite_number
from ullava.errors import DataError, did_you_mean
from ullava.geometry import polygons_to_mask
from ullava.media.images import MAX_PIXELS
from ullava.structures import MaskArray

CIRCLE_CORNERS = 36
_TURNED = ("rotation", "quadrilateral", "oriented_rectangle")
_AREA_TYPES = ("polygon", "rectangle", "circle", *_TURNED, "mask")
SHAPE_TYPES = (*_AREA_TYPES, "linestrip", "line", "point", "points")
_POINTS = {"rectangle": (2, 4), "circle": (2,), "mask": (2,)} | dict.fromkeys(_TURNED, (4,))


class Shape(NamedTuple):
    """One labeled area: its outline as flat x, y, ... in pixels, or a bitmap [h, w] with its corner (x, y)."""

    label: str
    polygon: list[float]
    pasted: NDArray[np.bool_] | None = None
    corner_xy: tuple[int, int] = (0, 0)

    def mask(self, size_hw: tuple[int, int]) -> MaskArray:
        """Return the area in an image [H, W], cut at its border; DataError for an outline far outside of it."""
        if self.pasted is None:
            return polygons_to_mask([self.polygon], *size_hw)
        mask = np.zeros(size_hw, np.bool_)
        (left, top), (height, width) = self.corner_xy, self.pasted.shape
        inside = mask[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
        first_row, first_column = max(-top, 0), max(-left, 0)
        rows, columns = inside.shape
        inside[:] = self.pasted[first_row : first_row + rows, first_column : first_column + columns]
        return mask


def read_shape(shape: Any) -> Shape:
    """Check a shape and return its area.

    Raises DataError, without the place, for a label that is no text, shapes without an area (line, point), a wrong
    number of points, coordinates that are not finite numbers, and a mask that cannot be decoded or misses its box.
    """
    if not isinstance(shape, Mapping):
        raise DataError(f"a shape is an object, not {type(shape).__name__}")
    label, kind = shape.get("label"), shape.get("shape_type") or "polygon"
    if not isinstance(label, str) or not label.strip():
        raise DataError("'label' has to be text that is not blank")
    if kind not in SHAPE_TYPES:
        raise DataError(f"shape_type '{str(kind)[:40]}' is not known{did_you_mean(str(kind), SHAPE_TYPES)}")
    if kind not in _AREA_TYPES:
        raise DataError(f"a {kind} has no outline; draw a polygon, a rectangle or a circle")
    points = shape.get("points")
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise DataError("'points' has to be a list of [x, y]")
    allowed = _POINTS.get(kind, ())
    if (allowed and len(points) not in allowed) or len(points) < min(allowed, default=3):
        needed = " or ".join(map(str, allowed)) or "3"
        raise DataError(f"a {kind} needs {needed} points{'' if allowed else ' or more'}, this one has {len(points)}")
    if kind == "mask":
        pasted, corner = _pasted(shape.get("mask"), points)
        return Shape(label.strip(), [], pasted, corner)
    return Shape(label.strip(), [float(number) for point in _outline(kind, points) for number in point])


def _outline(kind: str, points: list[list[float]]) -> list[list[float]]:
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points
        radius = math.hypot(edge_x - x, edge_y - y)
        turns = [2 * math.pi * corner / CIRCLE_CORNERS for corner in range(CIRCLE_CORNERS)]
        return [[x + radius * math.cos(turn), y + radius * math.sin(turn)] for turn in turns]
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    if len(points) == 4 and kind in ("rectangle", "rotation", "oriented_rectangle"):
        # Around the middle, so that corners in another order are no bow tie.
        x, y = (sum(values) / 4 for values in zip(*points, strict=True))
        return sorted(points, key=lambda point: math.atan2(point[1] - y, point[0] - x))
    return points


def _pasted(encoded: Any, points: list[list[float]]) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """Return the bitmap of a mask shape and its corner. LabelMe counts the far corner as inside, some do not."""
    (x0, y0), (x1, y1) = ((int(x), int(y)) for x, y in points)
    if not isinstance(encoded, str) or not encoded:
        raise DataError("'mask' has to be the base64 text of a PNG")
    if x1 < x0 or y1 < y0:
        raise DataError(f"the box {points} of the mask has to go from the upper left to the lower right corner")
    if (x1 - x0 + 1) * (y1 - y0 + 1) > MAX_PIXELS:
        raise DataError(f"the box of the mask has more than {MAX_PIXELS // 1_000_000} million pixels")
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)), formats=("PNG",)) as image:
            width, height = image.size
            if (width, height) not in ((x1 - x0 + 1, y1 - y0 + 1), (x1 - x0, y1 - y0)):
                box = f"{x1 - x0 + 1} x {y1 - y0 + 1}"
                raise DataError(f"the mask has {width} x {height} pixels (width x height), but its box {box}")
            if image.mode not in ("1", "L", "P"):
                raise DataError(f"a mask has one channel, this one is {image.mode}")
            return np.asarray(image).astype(np.bool_), (x0, y0)
    except Image.UnidentifiedImageError as error:
        raise DataError("'mask' is base64 text, but not of a PNG") from error
    except (binascii.Error, ValueError, OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"'mask' is not the base64 text of a PNG that can be decoded ({error})") from error


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_finite_number, value))
