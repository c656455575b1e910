"""An answer drawn on its image: mask tint and outline, box, and a label with phrase and score."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ullava.inference.labels import Label, Rect, label_font, make_label, overlap_of_labels, place_labels
from ullava.structures import GroundedObject, ImageArray, MaskArray

# Okabe and Ito, "Color universal design" (2008), without black: seven hues told apart with any color vision.
PALETTE: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (204, 121, 167),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
)
READABLE_SIDE = 480
_STRIP_ASPECT = 4
_TINT = 0.32
_EDGE_SHADE = 0.55
_EDGE_SLOPE = 60.0
_DARK = (20, 20, 20)
_LIGHT = (255, 255, 255)


def draw_overlay(
    image_rgb_u8: ImageArray,
    objects: Sequence[GroundedObject],
    scale: int | None = None,
    show_scores: bool = True,
    text_px: int | None = None,
    colors: Sequence[int] | None = None,
) -> ImageArray:
    """Draw ``objects`` on a copy of ``image_rgb_u8`` [H, W, 3].

    The image is enlarged ``scale`` times first; without ``scale`` an image whose long side is below 480 pixels is
    enlarged by the smallest whole number that reaches it, so that labels are readable. Phrase k gets color k of
    ``PALETTE`` (``color_places``), or object k color ``colors[k]``. Boxes and masks are in pixels of the original
    image. Labels lie inside the image; ``show_scores=False`` leaves the scores out of them (a truth has none).
    ``text_px`` is the letters' size in the result; without it, it follows the image's size (of a strip, four times the
    short side). Crowded images get smaller letters.

    Returns:
        uint8 [H * scale, W * scale, 3].

    Raises:
        ValueError: the image is not uint8 [H, W, 3], ``scale`` is below 1, or a mask has another size.
    """
    _check(image_rgb_u8, objects, scale)
    height, width = image_rgb_u8.shape[:2]
    factor = scale if scale is not None else max(1, -(-READABLE_SIDE // max(height, width)))
    size_wh = (width * factor, height * factor)
    canvas = np.asarray(cv2.resize(image_rgb_u8, size_wh, interpolation=cv2.INTER_CUBIC), np.uint8)
    masks = [None if item.mask is None else enlarge_mask(item.mask, factor) for item in objects]
    places = color_places([item.group for item in objects]) if colors is None else colors
    chosen = [PALETTE[place % len(PALETTE)] for place in places]
    extent = _extent(canvas)
    stroke = max(2, round(extent / 320))
    for mask, color in zip(masks, chosen, strict=True):
        if mask is not None:
            _tint(canvas, mask, color)
    for item, mask, color in zip(objects, masks, chosen, strict=True):
        if item.box_xyxy_px is not None:
            _draw_box(canvas, _scaled_box(item.box_xyxy_px, factor, canvas), color, max(1, stroke - 1))
        if mask is not None:
            _outline(canvas, mask, color, stroke)
    detail = _detail(image_rgb_u8, factor)
    words = [(item.phrase or "object", f"{item.score:.2f}" if show_scores else "") for item in objects]
    anchors = [_anchor(item, mask, factor, canvas) for item, mask in zip(objects, masks, strict=True)]
    letters = text_px if text_px is not None else max(13, round(extent / 34))
    return _draw_labels(canvas, words, anchors, masks, chosen, letters, detail)


def color_places(groups: Sequence[int | None]) -> list[int]:
    """Return the place in ``PALETTE`` of each object (in turn): objects of one group have one color, None is alone."""
    seen: dict[object, int] = {}
    keys = [group if group is not None else f"alone {place}" for place, group in enumerate(groups)]
    return [seen.setdefault(key, len(seen)) % len(PALETTE) for key in keys]


def enlarge_mask(mask: MaskArray, factor: int) -> MaskArray:
    """Enlarge a bitmap [H, W] ``factor`` times with smooth edges; specks that smoothing would lose stay square."""
    if factor == 1:
        return mask.astype(bool)
    size = (mask.shape[1] * factor, mask.shape[0] * factor)
    soft = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    smooth: MaskArray = cv2.GaussianBlur(soft, (0, 0), 0.7 * factor) > 0.5
    square = np.repeat(np.repeat(mask.astype(bool), factor, axis=0), factor, axis=1)
    return square if smooth.sum() < 0.75 * square.sum() else smooth


def _check(image: ImageArray, objects: Sequence[GroundedObject], scale: int | None) -> None:
    """Raise ValueError for what cannot be drawn."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    if scale is not None and scale < 1:
        raise ValueError(f"scale must be 1 or more, not {scale}")
    for item in objects:
        if item.mask is not None and item.mask.shape != image.shape[:2]:
            raise ValueError(f"mask of '{item.phrase}' is {item.mask.shape}, the image {image.shape[:2]}")


def _extent(canvas: ImageArray) -> int:
    """Return the length in pixels that strokes and letters follow: the long side, of a strip four short sides."""
    short, long = sorted(canvas.shape[:2])
    return min(long, _STRIP_ASPECT * short)


def _detail(image: ImageArray, factor: int) -> MaskArray:
    """Mark [H * factor, W * factor] the surroundings of strong edges: things that a label had better not hide."""
    gray = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 1.0).astype(np.float32)
    slope = np.hypot(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1))
    reach = np.ones((7, 7), np.uint8)
    strong = cv2.morphologyEx((slope > _EDGE_SLOPE).astype(np.uint8), cv2.MORPH_CLOSE, reach)
    return np.repeat(np.repeat(strong.astype(bool), factor, axis=0), factor, axis=1)


def _tint(canvas: ImageArray, mask: MaskArray, color: tuple[int, int, int]) -> None:
    """Blend ``color`` into the pixels of ``mask``, in place."""
    inside = canvas[mask].astype(np.float32)
    canvas[mask] = ((1.0 - _TINT) * inside + _TINT * np.asarray(color, np.float32)).astype(np.uint8)


def _outline(canvas: ImageArray, mask: MaskArray, color: tuple[int, int, int], stroke: int) -> None:
    """Draw the outline of ``mask`` (holes too) in ``color`` with a shaded edge on both sides, in place."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    line = np.zeros(canvas.shape[:2], np.uint8)
    cv2.drawContours(line, contours, -1, 255, stroke + 2)
    _shade(canvas, line > 0)
    cv2.drawContours(canvas, contours, -1, color, stroke, cv2.LINE_AA)


def _shade(canvas: ImageArray, where: MaskArray) -> None:
    """Darken the pixels of ``where``, in place, so that a colored line stands out on a ground of its color."""
    canvas[where] = (canvas[where] * (1.0 - _EDGE_SHADE)).astype(np.uint8)


def _scaled_box(box_xyxy_px: tuple[float, float, float, float], factor: int, canvas: ImageArray) -> Rect:
    """Return the box in canvas pixels, half-open, clipped to the canvas and at least one pixel wide and high."""
    height, width = canvas.shape[:2]
    x0, y0, x1, y1 = (round(value * factor) for value in box_xyxy_px)
    x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    return x0, y0, min(max(x1, x0 + 1), width), min(max(y1, y0 + 1), height)


def _draw_box(canvas: ImageArray, box: Rect, color: tuple[int, int, int], stroke: int) -> None:
    """Draw a box in ``color`` with a shaded edge on both sides, in place."""
    start, end = (box[0], box[1]), (box[2] - 1, box[3] - 1)
    line = np.zeros(canvas.shape[:2], np.uint8)
    cv2.rectangle(line, start, end, 255, stroke + 2)
    _shade(canvas, line > 0)
    cv2.rectangle(canvas, start, end, color, stroke)


def _anchor(item: GroundedObject, mask: MaskArray | None, factor: int, canvas: ImageArray) -> Rect:
    """Return the rectangle that a label should stay near: the mask's, else the box, else the whole image."""
    if mask is not None and mask.any():
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    if item.box_xyxy_px is not None:
        return _scaled_box(item.box_xyxy_px, factor, canvas)
    return 0, 0, canvas.shape[1], canvas.shape[0]


def _draw_labels(
    canvas: ImageArray,
    words: Sequence[tuple[str, str]],
    anchors: Sequence[Rect],
    masks: Sequence[MaskArray | None],
    colors: Sequence[tuple[int, int, int]],
    text_px: int,
    detail: MaskArray,
) -> ImageArray:
    """Return ``canvas`` with one label (phrase, score) for each object, in letters of ``text_px`` or a bit smaller."""
    height, width = canvas.shape[:2]
    labels: list[Label] = []
    places: list[Rect] = []
    for font_size in (
        text_px,
        max(min(12, text_px), round(0.85 * text_px)),
        max(min(11, text_px), round(0.7 * text_px)),
    ):
        labels = [make_label(phrase, score, font_size, round(0.44 * width)) for phrase, score in words]
        places = place_labels([label.size_wh for label in labels], anchors, masks, (width, height), detail)
        if overlap_of_labels(places) == 0:
            break
    image = Image.fromarray(canvas)
    pen = ImageDraw.Draw(image)
    for place, anchor, mask, color in zip(places, anchors, masks, colors, strict=True):
        _draw_leader(pen, place, anchor, mask, color, max(1, text_px // 8))
    for label, place, color in zip(labels, places, colors, strict=True):
        _draw_label(pen, label, place, color, font_size)
    return np.asarray(image).copy()


def _draw_label(
    pen: ImageDraw.ImageDraw, label: Label, place: Rect, color: tuple[int, int, int], font_size: int
) -> None:
    """Draw a chip of ``color`` with its lines in black or white, whichever stands out more."""
    x0, y0, x1, y1 = place
    pen.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), radius=label.padding, fill=color, outline=_DARK)
    ink = _DARK if _luminance(color) > 0.179 else _LIGHT
    for number, line in enumerate(label.lines):
        middle = y0 + label.padding // 2 + label.line_height * (number + 0.5)
        pen.text((x0 + label.padding, middle), line, fill=ink, font=label_font(font_size), anchor="lm")


def _draw_leader(
    pen: ImageDraw.ImageDraw,
    place: Rect,
    anchor: Rect,
    mask: NDArray[np.bool_] | None,
    color: tuple[int, int, int],
    stroke: int,
) -> None:
    """Connect a label that had to move away with the middle of its object."""
    away_x = max(anchor[0] - place[2], place[0] - anchor[2], 0)
    away_y = max(anchor[1] - place[3], place[1] - anchor[3], 0)
    if max(away_x, away_y) <= 8:
        return
    target = ((anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2)
    if mask is not None and mask.any():
        depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        target = (float(column), float(row))
    start = (min(max(target[0], place[0]), place[2]), min(max(target[1], place[1]), place[3]))
    pen.line((*start, *target), fill=_DARK, width=stroke + 2)
    pen.line((*start, *target), fill=color, width=stroke)


def _luminance(color: tuple[int, int, int]) -> float:
    """Return the relative luminance in [0, 1] (W3C, WCAG 2.1)."""
    parts = [value / 255 for value in color]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
