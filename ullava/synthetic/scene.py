"""What a scene is, and how one is drawn by lot from (split, seed, index)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
from numpy.typing import NDArray

from ullava.synthetic.outlines import outline, polygon_area
from ullava.synthetic.vocabulary import (
    COLOURS,
    HELD_OUT,
    HELD_OUT_PAIRS,
    KNOWN_PAIRS,
    PAIRS,
    RGB,
    SPLITS,
    TEXTURES,
    VERSION,
    Split,
)
from ullava.synthetic.worlds import PLAIN, World

ALIKE_SHARE = 0.4
ALIKE_SHARING = 0.65
LOOSE_SHARING = 0.2
LISTED_AT_MOST = 3
"""Scenes of so few objects are captioned by listing all of them."""
END_GAP_PX = 8.0
"""In scenes of more, the leftmost and the rightmost object stand at least so far from the next."""
CORE_RADIUS = 0.2
"""Radius of a core as a fraction of the shape's diameter."""


Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    """One object. ``outline_px`` [n, 2] is about ``centre_px`` (x, y), the centre of its box; ``core_px`` likewise.

    ``area_px`` is the area inside the outline, a ring's hole included. ``core`` is the colour of its inner dot.
    ``world`` says how fine its texture is.
    """

    colour: str
    shape: str
    size: str
    texture: str
    core: str | None
    centre_px: tuple[float, float]
    diameter_px: float
    outline_px: NDArray[np.float64] = field(repr=False)
    core_px: tuple[float, float]
    area_px: float
    rgb: RGB
    core_rgb: RGB
    world: World = PLAIN

    @property
    def pair(self) -> tuple[str, str]:
        """Colour and shape."""
        return self.colour, self.shape


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """An image's truth. ``salient`` is the place in ``things`` of the one that is far larger than the rest."""

    split: Split
    seed: int
    index: int
    width: int
    height: int
    things: tuple[Thing, ...]
    salient: int | None
    world: World = PLAIN

    def may_name(self, colour: str | None, shape: str | None) -> bool:
        """Whether words of this split may join ``colour`` and ``shape``: training must not deny unseen pairs."""
        return self.split == "unseen" or (colour, shape) not in HELD_OUT


def rng_of(split: Split, seed: int, index: int, stream: str) -> Random:
    """Random numbers of one purpose (``stream``) for one image; independent of how many images are drawn."""
    return Random(f"shapes/{VERSION}/{split}/{seed}/{index}/{stream}")


def numpy_rng_of(split: Split, seed: int, index: int) -> np.random.Generator:
    """Random arrays (backgrounds) for one image."""
    return np.random.default_rng([VERSION, SPLITS.index(split), seed, index])


def _pick_pair(rng: Random, split: Split, earlier: Sequence[tuple[str, str]], sharing: float) -> tuple[str, str]:
    """A (colour, shape) allowed in ``split``; shares one with an earlier object with probability ``sharing``."""
    if split == "unseen" and (not earlier or rng.random() < 0.35):
        allowed: Sequence[tuple[str, str]] = HELD_OUT_PAIRS
    else:
        allowed = PAIRS if split == "unseen" else KNOWN_PAIRS
    draw = rng.random() / sharing
    if earlier and draw < 1.0:
        colour, shape = rng.choice(earlier)
        if draw < 0.15 and (colour, shape) in allowed:
            return colour, shape
        if draw < 0.6:
            allowed = [pair for pair in allowed if pair[1] == shape] or allowed
        else:
            allowed = [pair for pair in allowed if pair[0] == colour] or allowed
    return rng.choice(allowed)


def jitter(rng: Random, rgb: RGB) -> RGB:
    """A colour a little lighter or darker and of slightly other hue."""
    shift = rng.randint(-6, 6)
    red, green, blue = (min(255, max(0, value + shift + rng.randint(-6, 6))) for value in rgb)
    return red, green, blue


def _place(
    rng: Random, extent: NDArray[np.float64], width: int, height: int, boxes: list[Box], gap: float
) -> tuple[float, float] | None:
    """A centre for an object of ``extent`` (half width, half height) clear of the edge and of ``boxes``, if found."""
    half_w, half_h = float(extent[0]), float(extent[1])
    edge = 2.0
    for _ in range(40):
        x = rng.uniform(half_w + edge, width - half_w - edge)
        y = rng.uniform(half_h + edge, height - half_h - edge)
        near_w, near_h = half_w + gap, half_h + gap
        if all(x + near_w <= b[0] or x - near_w >= b[2] or y + near_h <= b[1] or y - near_h >= b[3] for b in boxes):
            return x, y
    return None


def _draw_thing(
    rng: Random,
    pair: tuple[str, str],
    size: str,
    diameter_px: float,
    canvas: tuple[int, int],
    boxes: list[Box],
    world: World,
) -> Thing | None:
    colour, shape = pair
    points, core_px = outline(shape, diameter_px, rng.uniform(-1, 1))
    extent = points.max(axis=0)
    centre = _place(rng, extent, canvas[0], canvas[1], boxes, world.gap_px)
    if centre is None:
        return None
    texture = rng.choices(TEXTURES, world.textures)[0]
    if shape == "ring" and size == "small":
        texture = "plain"
    core: str | None = None
    if shape != "ring" and rng.random() < 0.2:
        texture = "plain"
        core = rng.choice([name for name in COLOURS if name != colour])
    boxes.append((centre[0] - extent[0], centre[1] - extent[1], centre[0] + extent[0], centre[1] + extent[1]))
    return Thing(
        colour=colour,
        shape=shape,
        size=size,
        texture=texture,
        core=core,
        centre_px=centre,
        diameter_px=diameter_px,
        outline_px=points,
        core_px=core_px,
        area_px=polygon_area(points),
        rgb=jitter(rng, COLOURS[colour]),
        core_rgb=jitter(rng, COLOURS[core or colour]),
        world=world,
    )


def _draw_things(
    rng: Random, split: Split, count: int, salient: bool, canvas: tuple[int, int], world: World
) -> list[Thing]:
    """Up to ``count`` objects, at least two; the first is the salient one where there is one.

    In some scenes most objects are alike in colour or shape, so that only several words together tell them apart.
    """
    sharing = ALIKE_SHARING if rng.random() < ALIKE_SHARE else LOOSE_SHARING
    things: list[Thing] = []
    boxes: list[Box] = []
    wanted_large = 0 if salient else sum(rng.random() < 0.5 for _ in range(count))
    for place in range(count):
        pair = _pick_pair(rng, split, [thing.pair for thing in things], sharing)
        large = place < wanted_large
        sizes = world.salient_px if salient and place == 0 else world.large_px if large else world.small_px
        size = "small" if sizes is world.small_px else "large"
        thing = _draw_thing(rng, pair, size, rng.uniform(*sizes), canvas, boxes, world)
        if thing is None:
            thing = _draw_thing(rng, pair, "small", rng.uniform(*world.small_px), canvas, boxes, world)
        if thing is not None:
            things.append(thing)
    return things


def _tells_left_from_right(things: Sequence[Thing]) -> bool:
    """Whether a caption can name the objects from left to right (few), or the two at the ends (many)."""
    row = sorted(thing.centre_px[0] for thing in things)
    if len(row) <= LISTED_AT_MOST:
        return all(after - before >= 4.0 for before, after in zip(row, row[1:], strict=False))
    return row[1] - row[0] >= END_GAP_PX and row[-1] - row[-2] >= END_GAP_PX


def sample_scene(split: Split, seed: int, index: int, world: World = PLAIN) -> Scene:
    """Scene ``index`` of the world (``split``, ``seed``): objects (2 to 6 in the plain one) whose boxes do not touch.

    In ``unseen`` the first object drawn, which is also the salient one where there is one, has a held-out pair.
    """
    rng = rng_of(split, seed, index, "scene")
    canvas = rng.choice(world.canvases)
    count = rng.choices(tuple(world.counts), tuple(world.counts.values()))[0]
    salient = rng.random() < world.salient_share
    things: list[Thing] = []
    for _ in range(30):
        things = _draw_things(rng, split, count, salient, canvas, world)
        if len(things) >= 2 and _tells_left_from_right(things):
            break
    order = list(range(len(things)))
    rng.shuffle(order)
    return Scene(
        split=split,
        seed=seed,
        index=index,
        width=canvas[0],
        height=canvas[1],
        things=tuple(things[i] for i in order),
        salient=order.index(0) if salient else None,
        world=world,
    )
