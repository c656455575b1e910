"""Where the labels of an image go: inside it, near their objects, off each other and off the masks where possible.

All coordinates here are pixels of the image being drawn (x right, y down), which may be enlarged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ImageFont

Rect = tuple[int, int, int, int]

# What a candidate place costs, in units of "this share of the label's area is covered by ...".
_OVER_LABEL = 100.0
_OVER_OTHER_MASK = 6.0
_OVER_OWN_MASK = 4.0
_AWAY = 3.0
_OVER_DETAIL = 2.5
_GRID = 28


@lru_cache(maxsize=16)
def label_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that comes with Pillow at ``size`` pixels (Latin letters; nothing to install)."""
    return ImageFont.load_default(size=size)


@dataclass(frozen=True, slots=True)
class Label:
    """A label ready to be drawn: its lines, the size of a line and of the whole chip, in pixels."""

    lines: tuple[str, ...]
    line_height: int
    padding: int
    size_wh: tuple[int, int]


def make_label(text: str, suffix: str, font_size: int, max_width: int, max_lines: int = 3) -> Label:
    """Break ``text`` into at most ``max_lines`` lines of ``max_width`` pixels; ``suffix`` (a score) is never cut."""
    font = label_font(font_size)
    padding = max(3, font_size // 4)
    room = max(max_width - 2 * padding - 1, font_size)
    lines: list[list[str]] = [[]]
    for word in text.split():
        if lines[-1] and font.getlength(" ".join([*lines[-1], word])) > room:
            lines.append([])
        lines[-1].append(word)
    if lines[-1] and font.getlength(" ".join([*lines[-1], suffix])) > room and len(lines) < max_lines:
        lines.append([])
    rest = [word for line in lines[max_lines - 1 :] for word in line]
    shown = [_shorten(" ".join(line), room, font) for line in lines[: max_lines - 1]]
    if len(lines) >= max_lines:
        shown.append(_shorten(" ".join(rest), room - font.getlength(f" {suffix}"), font))
    shown[-1] = f"{shown[-1]} {suffix}".strip()
    line_height = round(font_size * 1.22)
    width = int(max(font.getlength(line) for line in shown)) + 2 * padding + 1
    return Label(tuple(shown), line_height, padding, (width, line_height * len(shown) + padding))


def _shorten(text: str, room: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Cut ``text`` with an ellipsis until it is at most ``room`` pixels wide."""
    if font.getlength(text) <= room:
        return text
    kept = len(text)
    while kept > 1 and font.getlength(text[:kept].rstrip() + "...") > room:
        kept -= 1
    return text[:kept].rstrip() + "..."


def place_labels(
    sizes_wh: Sequence[tuple[int, int]],
    anchors: Sequence[Rect],
    masks: Sequence[NDArray[np.bool_] | None],
    canvas_wh: tuple[int, int],
    detail: NDArray[np.bool_] | None = None,
) -> list[Rect]:
    """Choose a place for every label, smallest object first (it has the fewest good places).

    ``anchors`` are the objects' boxes, ``masks`` their bitmaps [H, W] (None where there is none), ``canvas_wh`` the
    image; ``detail`` [H, W] marks what else had better stay visible. Returns half-open rectangles in the order given,
    each inside the image if the label fits in it at all.
    """
    width, height = canvas_wh
    covered = np.zeros((height, width), np.uint8)
    for mask in masks:
        if mask is not None:
            covered = np.asarray(cv2.add(covered, mask.astype(np.uint8)), np.uint8)
    everyone = _integral(covered)
    details = _integral(np.zeros_like(covered) if detail is None else detail.astype(np.uint8))
    taken: list[Rect] = []
    placed: dict[int, Rect] = {}
    for index in sorted(range(len(anchors)), key=lambda number: _area(anchors[number])):
        mask = masks[index]
        own = _integral(mask.astype(np.uint8)) if mask is not None else np.zeros_like(everyone)
        candidates = _candidates(sizes_wh[index], anchors[index], canvas_wh)
        cost = _cost(candidates, anchors[index], own, everyone, taken, canvas_wh)
        cost += _OVER_DETAIL * _inside(details, candidates) / max(_area((0, 0, *sizes_wh[index])), 1)
        x0, y0, x1, y1 = (int(value) for value in candidates[int(np.argmin(cost))])
        placed[index] = (x0, y0, x1, y1)
        taken.append(placed[index])
    return [placed[index] for index in range(len(anchors))]


def overlap_of_labels(places: Sequence[Rect]) -> int:
    """Return how many pixels are covered by more than one of the rectangles, counted per pair."""
    total = 0
    for index, first in enumerate(places):
        for second in places[index + 1 :]:
            total += _common(first, second)
    return total


def _area(rect: Rect) -> int:
    return max(rect[2] - rect[0], 0) * max(rect[3] - rect[1], 0)


def _common(first: Rect, second: Rect) -> int:
    """Return the common area of two rectangles in pixels."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    return max(wide, 0) * max(high, 0)


def _integral(counts: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the summed-area table [H+1, W+1] of ``counts`` [H, W]."""
    return np.asarray(cv2.integral(counts), np.int32)


def _inside(table: NDArray[np.int32], rects: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the sum below each rectangle [n, 4] from a summed-area table."""
    x0, y0, x1, y1 = rects.T
    return (table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]).astype(np.float64)


def _candidates(size_wh: tuple[int, int], anchor: Rect, canvas_wh: tuple[int, int]) -> NDArray[np.int64]:
    """Return places [n, 4] for a label: around and within its object first, then a grid over the whole image."""
    (wide, high), (width, height) = size_wh, canvas_wh
    x0, y0, x1, y1 = anchor
    gap = 3
    middle_x, middle_y = (x0 + x1 - wide) // 2, (y0 + y1 - high) // 2
    corners = [(x, y) for y in (y0 - high - gap, y1 + gap) for x in (x0, middle_x, x1 - wide)]
    corners += [(x, y) for x in (x1 + gap, x0 - wide - gap) for y in (y0, middle_y, y1 - high)]
    corners += [(x0 + gap, y0 + gap), (x0 + gap, y1 - high - gap)]
    grid_x = np.linspace(0, max(width - wide, 0), _GRID).astype(np.int64)
    grid_y = np.linspace(0, max(height - high, 0), _GRID).astype(np.int64)
    grid = np.stack(np.meshgrid(grid_x, grid_y), axis=-1).reshape(-1, 2)
    starts = np.concatenate([np.asarray(corners, np.int64), grid])
    starts[:, 0] = np.clip(starts[:, 0], 0, max(width - wide, 0))
    starts[:, 1] = np.clip(starts[:, 1], 0, max(height - high, 0))
    ends = np.minimum(starts + np.asarray([wide, high]), np.asarray([width, height]))
    return np.concatenate([starts, ends], axis=1)


def _cost(
    rects: NDArray[np.int64],
    anchor: Rect,
    own: NDArray[np.int32],
    everyone: NDArray[np.int32],
    taken: Sequence[Rect],
    canvas_wh: tuple[int, int],
) -> NDArray[np.float64]:
    """Return the cost [n] of each place: other labels, other masks, the own mask, and the way to the object."""
    x0, y0, x1, y1 = rects.T
    area = np.maximum((x1 - x0) * (y1 - y0), 1)
    on_own = _inside(own, rects)
    cost = _OVER_OWN_MASK * on_own / area + _OVER_OTHER_MASK * (_inside(everyone, rects) - on_own) / area
    for other in taken:
        wide = np.clip(np.minimum(x1, other[2]) - np.maximum(x0, other[0]) + 2, 0, None)
        high = np.clip(np.minimum(y1, other[3]) - np.maximum(y0, other[1]) + 2, 0, None)
        cost = cost + _OVER_LABEL * wide * high / area
    away_x = np.maximum(np.maximum(anchor[0] - x1, x0 - anchor[2]), 0)
    away_y = np.maximum(np.maximum(anchor[1] - y1, y0 - anchor[3]), 0)
    cost = cost + _AWAY * np.hypot(away_x, away_y) / (0.1 * max(canvas_wh))
    return cost + np.linspace(0.0, 0.01, len(rects))
