"""Views: where an image lies in a network's input. The only carrier of coordinates between the two."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ullava.geometry.boxes import Boxes, as_coordinates

ViewKind = Literal["pad_center", "pad_br", "stretch", "short_side", "canvas_tile"]
VIEW_KINDS: tuple[ViewKind, ...] = ("pad_center", "pad_br", "stretch", "short_side", "canvas_tile")


@dataclass(frozen=True, slots=True)
class View:
    """Where the image lies in one network input: ``x_view = sx * x + ox``, the same for y.

    ``orig_wh`` is the size in pixels after EXIF rotation, ``size_wh`` the size of the view's tensor. The image's
    content ends at ``scale * orig + offset``; what the view has beyond that is padding.
    """

    kind: ViewKind
    orig_wh: tuple[int, int]
    scale_xy: tuple[float, float]
    offset_xy: tuple[float, float]
    size_wh: tuple[int, int]

    def to_view(self, boxes_xyxy_px: ArrayLike) -> Boxes:
        """Map boxes [..., 4] (or points [..., 2]) from original pixels to pixels of the view."""
        boxes = as_coordinates(boxes_xyxy_px)
        repeats = boxes.shape[-1] // 2
        mapped: Boxes = boxes * np.tile(self.scale_xy, repeats) + np.tile(self.offset_xy, repeats)
        return mapped

    def to_orig(self, boxes_xyxy_view: ArrayLike) -> Boxes:
        """Map boxes [..., 4] (or points [..., 2]) from pixels of the view back to original pixels."""
        boxes = as_coordinates(boxes_xyxy_view)
        repeats = boxes.shape[-1] // 2
        mapped: Boxes = (boxes - np.tile(self.offset_xy, repeats)) / np.tile(self.scale_xy, repeats)
        return mapped

    def crop(self, left: int, top: int, size_wh: tuple[int, int]) -> View:
        """Return the view that is left when a window of ``size_wh`` is cut out at ``left``, ``top``."""
        return replace(self, offset_xy=(self.offset_xy[0] - left, self.offset_xy[1] - top), size_wh=size_wh)


def plan_view(
    kind: ViewKind,
    orig_wh: tuple[int, int],
    side: int,
    *,
    canvas_wh: tuple[int, int] | None = None,
    tile_origin_xy: tuple[int, int] = (0, 0),
) -> View:
    """Lay an image of ``orig_wh`` into a network input of ``side`` (docs/vision_encoders.md).

    ``pad_center``: scaled to the long side and pasted in the middle of a square, at a whole pixel of the padded
    original. ``pad_br``: padded right and below (SAM). ``stretch``: squeezed to the square. ``short_side``: the short
    side becomes ``side``, the long one is rounded down (CLIP's rule), nothing is padded. ``canvas_tile``: fitted
    centrally into ``canvas_wh``, of which the tile of ``side`` at ``tile_origin_xy`` is cut.

    Raises:
        ValueError: a size that is not positive, or ``canvas_tile`` without a canvas (and the reverse).
    """
    width, height = orig_wh
    if min(width, height, side) <= 0:
        raise ValueError(f"sizes must be positive: image {width}x{height}, side {side}")
    if (kind == "canvas_tile") != (canvas_wh is not None):
        raise ValueError(f"canvas_wh belongs to canvas_tile, and only to it; kind is {kind}")
    longest = max(width, height)
    if kind == "pad_center":
        scale = side / longest
        offset = (scale * ((longest - width) // 2), scale * ((longest - height) // 2))
        return View(kind, orig_wh, (scale, scale), offset, (side, side))
    if kind == "pad_br":
        scale = side / longest
        return View(kind, orig_wh, (scale, scale), (0.0, 0.0), (side, side))
    if kind == "stretch":
        return View(kind, orig_wh, (side / width, side / height), (0.0, 0.0), (side, side))
    if kind == "short_side":
        shortest = min(width, height)
        new_width, new_height = side * width // shortest, side * height // shortest
        scale_xy = (new_width / width, new_height / height)
        return View(kind, orig_wh, scale_xy, (0.0, 0.0), (new_width, new_height))
    if kind == "canvas_tile" and canvas_wh is not None:
        scale = min(canvas_wh[0] / width, canvas_wh[1] / height)
        origin = (
            float((canvas_wh[0] - _round(width * scale)) // 2 - tile_origin_xy[0]),
            float((canvas_wh[1] - _round(height * scale)) // 2 - tile_origin_xy[1]),
        )
        return View(kind, orig_wh, (scale, scale), origin, (side, side))
    raise ValueError(f"unknown kind of view {kind!r}; known: {', '.join(VIEW_KINDS)}")


def plan_square(kind: ViewKind, orig_wh: tuple[int, int], side: int) -> View:
    """``plan_view``, and of ``short_side`` the middle square of ``side`` alone: what a tower for squares sees."""
    view = plan_view(kind, orig_wh, side)
    if kind != "short_side":
        return view
    left, top = ((length - side) // 2 for length in view.size_wh)
    return view.crop(left, top, (side, side))


def plan_bounded_view(orig_wh: tuple[int, int], short_side: int, long_side: int) -> View:
    """Lay a whole image into an input whose short side is ``short_side``, unless the long one exceeds ``long_side``.

    The rule of the DETR family, its rounding included: the short side is rounded, the long one cut to whole pixels.
    The two scales therefore differ a little, and fractions of the view are fractions of the image.

    Raises:
        ValueError: a size that is not positive, or ``long_side`` below ``short_side``.
    """
    shortest, longest = min(orig_wh), max(orig_wh)
    if min(shortest, short_side) <= 0 or long_side < short_side:
        raise ValueError(f"an image of {orig_wh[0]}x{orig_wh[1]} cannot be laid into {short_side} to {long_side}")
    wanted = min(float(short_side), long_side * shortest / longest)
    short, long = max(1, round(wanted)), max(1, int(wanted * longest / shortest))
    width, height = (short, long) if orig_wh[0] < orig_wh[1] else (long, short)
    return View("stretch", orig_wh, (width / orig_wh[0], height / orig_wh[1]), (0.0, 0.0), (width, height))


def resized_hw(view: View) -> tuple[int, int]:
    """Return (h, w), the whole-pixel size to which the image is resized before it is padded or cut."""
    return _round(view.orig_wh[1] * view.scale_xy[1]), _round(view.orig_wh[0] * view.scale_xy[0])


def _round(length: float) -> int:
    """Round half up, at least one pixel (the rule of SAM's resize)."""
    return max(1, int(length + 0.5))
