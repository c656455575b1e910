"""Outlines of the shapes as polygons, in pixels about the centre of their bounding box."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

RING_HOLE = 0.54
"""Radius of a ring's hole as a fraction of its outer radius."""

_SCALE = {
    "circle": 1.0,
    "square": 0.92,
    "triangle": 1.06,
    "star": 1.1,
    "cross": 1.02,
    "ring": 1.02,
    "heart": 1.02,
    "diamond": 1.1,
}
_TILT_DEG = {
    "circle": 0.0,
    "square": 4.0,
    "triangle": 10.0,
    "star": 14.0,
    "cross": 8.0,
    "ring": 0.0,
    "heart": 12.0,
    "diamond": 5.0,
}
_CORE_OFFSET = {"triangle": (0.0, 0.13), "heart": (0.0, -0.07)}


def _circle(points: int = 40) -> Points:
    angle = np.arange(points) * (2 * math.pi / points)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _star() -> Points:
    angle = np.arange(10) * (math.pi / 5) - math.pi / 2
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.44)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _heart() -> Points:
    t = np.arange(40) * (2 * math.pi / 40)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


def _cross() -> Points:
    a = 0.36
    x = [-a, a, a, 1, 1, a, a, -a, -a, -1, -1, -a]
    y = [-1, -1, -a, -a, a, a, 1, 1, a, a, -a, -a]
    return np.stack([x, y], axis=1).astype(np.float64)


_CORNERS: dict[str, Callable[[], Points]] = {
    "circle": _circle,
    "ring": _circle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "square": lambda: np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=np.float64),
    "triangle": lambda: np.array([(0, -0.9), (1, 0.9), (-1, 0.9)], dtype=np.float64),
    "diamond": lambda: np.array([(0, -1), (0.7, 0), (0, 1), (-0.7, 0)], dtype=np.float64),
}


@cache
def _unit(shape: str) -> Points:
    """Outline [n, 2] centred on its bounding box, whose longer side is 1."""
    points = _CORNERS[shape]()
    low, high = points.min(axis=0), points.max(axis=0)
    return np.asarray((points - (low + high) / 2) / (high - low).max())


def outline(shape: str, diameter_px: float, tilt: float) -> tuple[Points, tuple[float, float]]:
    """Outline of ``shape`` [n, 2] in pixels about (0, 0), the centre of its bounding box; and where its core sits.

    ``tilt`` in [-1, 1] turns it within the range that keeps a square a square and a diamond a diamond. The core's
    centre is given in the same frame.
    """
    angle = math.radians(_TILT_DEG[shape] * tilt)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    scale = diameter_px * _SCALE[shape]
    points = _unit(shape) @ turn * scale
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    core = np.array(_CORE_OFFSET.get(shape, (0.0, 0.0))) @ turn * scale - middle
    return points - middle, (float(core[0]), float(core[1]))


def polygon_area(points: Points) -> float:
    """Area inside a polygon [n, 2] (shoelace formula)."""
    x, y = points[:, 0], points[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
