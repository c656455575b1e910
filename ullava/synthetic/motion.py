"""Moving scenes: one to three objects that go left, right, up or down, or stay; and how a clip of one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from ullava.structures import ImageArray
from ullava.synthetic.outlines import outline, polygon_area
from ullava.synthetic.render import background, draw_thing, to_pixels
from ullava.synthetic.scene import Box, Thing, jitter, rng_of
from ullava.synthetic.vocabulary import (
    COLOURS,
    HELD_OUT_PAIRS,
    KNOWN_PAIRS,
    MOTIONS,
    PAIRS,
    SPLITS,
    STILL,
    TEXTURES,
    VERSION,
    Split,
)
from ullava.synthetic.worlds import PLAIN

LENGTHS: tuple[int, ...] = (8, 9, 10, 12)
"""Frames of a clip."""
DIAMETER_PX = (24.0, 36.0)
LARGE_FROM_PX = 30.0
TRAVEL_PX = (34, 70)
"""How far an object goes from the first to the last frame."""
EDGE_PX = 2.0
IN_ORDER_PX = 4.0
"""The objects' first positions differ at least so much from left to right, the order of captions."""
ONE_MOVES = 0.6
"""Share of the clips of several objects in which a single one moves."""

STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), STILL: (0, 0)}
"""Motion -> (right, down)."""


@dataclass(frozen=True, slots=True, eq=False)
class Mover:
    """An object and what it does: ``thing`` at its place in the first frame, ``travel_px`` along ``motion``."""

    thing: Thing
    motion: str
    travel_px: int

    def at(self, frame: int, length: int) -> Thing:
        """The object in frame ``frame`` of ``length``: whole pixels further, so that it keeps its pixels."""
        done = round(self.travel_px * frame / (length - 1))
        (x, y), (right, down) = self.thing.centre_px, STEPS[self.motion]
        return replace(self.thing, centre_px=(x + right * done, y + down * done))


@dataclass(frozen=True, slots=True, eq=False)
class MovingScene:
    """A clip's truth; ``movers`` from left to right in the first frame, no two of one colour or of one shape."""

    split: Split
    seed: int
    index: int
    width: int
    height: int
    length: int
    movers: tuple[Mover, ...]


def sample_moving_scene(split: Split, seed: int, index: int) -> MovingScene:
    """Moving scene ``index`` of the world (``split``, ``seed``); at least one object moves, and no two ever meet.

    In ``unseen`` the first object drawn has a held-out pair of colour and shape, in the other splits none has.
    """
    rng = rng_of(split, seed, index, "clip")
    width, height = rng.choice(PLAIN.canvases)
    length = rng.choice(LENGTHS)
    count = rng.choices((1, 2, 3), (35, 40, 25))[0]
    movers: list[Mover] = []
    while not movers or not _apart(movers):
        movers = _draw_movers(rng, split, count, (width, height))
    movers.sort(key=lambda mover: mover.thing.centre_px[0])
    return MovingScene(split, seed, index, width, height, length, tuple(movers))


def draw_clip(scene: MovingScene) -> ImageArray:
    """The frames of a moving scene, uint8 [T, H, W, 3]; the same scene gives the same bytes."""
    seeds = [VERSION, SPLITS.index(scene.split), scene.seed, scene.index, 1]
    still = background(np.random.default_rng(seeds), scene.width, scene.height)
    frames = np.empty((scene.length, scene.height, scene.width, 3), dtype=np.uint8)
    nowhere = np.zeros((scene.height, scene.width), dtype=np.bool_)
    for number in range(scene.length):
        image = still.copy()
        for place, mover in enumerate(scene.movers):
            paint = np.random.default_rng([*seeds, place])
            draw_thing(paint, mover.at(number, scene.length), image, nowhere, nowhere)
        frames[number] = to_pixels(image)
    return frames


def _apart(movers: Sequence[Mover]) -> bool:
    row = sorted(mover.thing.centre_px[0] for mover in movers)
    return all(after - before >= IN_ORDER_PX for before, after in zip(row, row[1:], strict=False))


def _draw_movers(rng: Random, split: Split, count: int, canvas: tuple[int, int]) -> list[Mover]:
    """Up to ``count`` objects, the first of which moves; empty where not even that one found room."""
    found: list[Mover] = []
    paths: list[Box] = []
    alone = rng.random() < ONE_MOVES
    for place in range(count):
        allowed = HELD_OUT_PAIRS if split == "unseen" and not found else PAIRS if split == "unseen" else KNOWN_PAIRS
        taken = [mover.thing.pair for mover in found]
        pair = rng.choice([p for p in allowed if all(p[0] != other[0] and p[1] != other[1] for other in taken)])
        motion = rng.choice(MOTIONS) if place == 0 or not alone and rng.random() < 0.8 else STILL
        mover = _place(rng, pair, motion, canvas, paths)
        if mover is None and place == 0:
            return []
        if mover is not None:
            found.append(mover)
    return found


def _place(rng: Random, pair: tuple[str, str], motion: str, canvas: tuple[int, int], paths: list[Box]) -> Mover | None:
    """An object whose whole path is inside the image and clear of other paths, if one was found in 40 attempts."""
    colour, shape = pair
    diameter = rng.uniform(*DIAMETER_PX)
    points, core_px = outline(shape, diameter, rng.uniform(-1, 1))
    half = points.max(axis=0)
    right, down = STEPS[motion]
    reach = np.array(canvas) - 2 * half - 2 * EDGE_PX
    room = int(reach[0] if right else reach[1])
    for _ in range(40):
        travel = 0 if motion == STILL else rng.randint(TRAVEL_PX[0], min(TRAVEL_PX[1], room))
        path = _path(rng, half, travel, (right, down), canvas)
        if all(clear(path, other) for other in paths):
            paths.append(path)
            x = path[2] - half[0] if right < 0 else path[0] + half[0]
            y = path[3] - half[1] if down < 0 else path[1] + half[1]
            thing = moving_thing(rng, colour, shape, diameter, points, core_px, (float(x), float(y)))
            return Mover(thing, motion, travel)
    return None


def _path(rng: Random, half: NDArray[np.float64], travel: int, step: tuple[int, int], canvas: tuple[int, int]) -> Box:
    """A box (x0, y0, x1, y1) that an object covers on its way, anywhere in the image."""
    width, height = (2 * float(side) + travel * abs(along) for side, along in zip(half, step, strict=True))
    left = rng.uniform(EDGE_PX, canvas[0] - EDGE_PX - width)
    top = rng.uniform(EDGE_PX, canvas[1] - EDGE_PX - height)
    return left, top, left + width, top + height


def clear(path: Box, other: Box) -> bool:
    """Whether two boxes are apart by the gap that objects keep."""
    gap = PLAIN.gap_px
    return (
        path[2] + gap <= other[0] or path[0] - gap >= other[2] or path[3] + gap <= other[1] or path[1] - gap >= other[3]
    )


def moving_thing(
    rng: Random,
    colour: str,
    shape: str,
    diameter: float,
    points: NDArray[np.float64],
    core_px: tuple[float, float],
    centre_px: tuple[float, float],
) -> Thing:
    """An object of a moving scene; ``points`` and ``core_px`` from ``outline``, texture and shade by lot."""
    size = "large" if diameter >= LARGE_FROM_PX else "small"
    texture = rng.choices(TEXTURES, (6, 2, 2))[0] if shape != "ring" or size == "large" else "plain"
    rgb = jitter(rng, COLOURS[colour])
    return Thing(
        colour=colour,
        shape=shape,
        size=size,
        texture=texture,
        core=None,
        centre_px=centre_px,
        diameter_px=diameter,
        outline_px=points,
        core_px=core_px,
        area_px=polygon_area(points),
        rgb=rgb,
        core_rgb=rgb,
    )
