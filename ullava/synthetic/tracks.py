"""Scenes for referring through time: two to four shapes that stay, move, turn, leave, or pass behind a screen.

What an object does is known by construction, and so are its masks: no two objects ever meet, only the screen hides.
Two objects may share color and shape, so that what they do is all that tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

import cv2
import numpy as np

from ullava.structures import ImageArray, MaskArray
from ullava.synthetic.motion import EDGE_PX, STEPS, clear, moving_thing
from ullava.synthetic.outlines import outline
from ullava.synthetic.render import background, draw_thing, to_pixels
from ullava.synthetic.scene import Box, Thing, rng_of
from ullava.synthetic.vocabulary import HELD_OUT_PAIRS, KNOWN_PAIRS, MOTIONS, PAIRS, SPLITS, VERSION, Split

CANVASES: tuple[tuple[int, int], ...] = ((160, 128), (128, 160), (160, 160))
"""(width, height)."""
LENGTHS: tuple[int, ...] = (16, 20, 24)
"""Frames of a clip."""
DIAMETER_PX = (18.0, 26.0)
TRAVEL_PX = (24, 60)
"""How far an object goes in one direction."""
STARTS: tuple[int, ...] = (0, 0, 2, 4, 6)
"""Frames in which an object sets out."""
SCREEN_PX = (36, 52)
"""Sides of the screen."""
SCREEN_SHARE = 0.6
ALIKE_SHARE = 0.5
"""How often an object does what the one before it does, and looks like it in color or shape or both."""
HIDDEN_FRAMES = 2
"""An object that passes behind the screen is hidden whole in so many frames at the least."""
_SCREEN_RGB = (34.0, 34.0, 40.0)
_SCREEN_EDGE_RGB = (12.0, 12.0, 14.0)
_ATTEMPTS = 40

Ending = Literal["seen", "hidden", "gone"]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Deed:
    """What an object does: directions one after the other (none: it stays), how it ends, when it sets out.

    ``returns``: it passes behind the screen and comes out on the other side. ``start``: a frame, of no meaning for what
    stays.
    """

    ways: tuple[str, ...] = ()
    ending: Ending = "seen"
    returns: bool = False
    start: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Actor:
    """An object with its center (x, y) in every frame, in pixels; outside of the image once it is gone."""

    thing: Thing
    deed: Deed
    centres_px: tuple[Point, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Play:
    """A clip's truth; ``screen`` (x0, y0, x1, y1) in whole pixels is what hides, None where there is none."""

    split: Split
    seed: int
    index: int
    width: int
    height: int
    length: int
    actors: tuple[Actor, ...]
    screen: tuple[int, int, int, int] | None


def sample_play(split: Split, seed: int, index: int) -> Play:
    """Scene ``index`` of the world (``split``, ``seed``): at least two objects, at least one of which moves.

    In ``unseen`` the first object has a held-out pair of color and shape, in the other splits none has.
    """
    rng = rng_of(split, seed, index, "play")
    screened = rng.random() < SCREEN_SHARE
    while True:
        width, height = rng.choice(CANVASES)
        length = rng.choice(LENGTHS)
        screen = _screen(rng, (width, height)) if screened else None
        actors = _draw_actors(rng, split, (width, height), length, screen)
        if len(actors) > 1 and any(actor.deed.ways for actor in actors):
            return Play(split, seed, index, width, height, length, tuple(actors), screen)


def draw_play(play: Play) -> tuple[ImageArray, MaskArray]:
    """Return frames uint8 [T, H, W, 3] and masks bool [actors, T, H, W] of what is seen of each object."""
    seeds = [VERSION, SPLITS.index(play.split), play.seed, play.index, 2]
    still = background(np.random.default_rng(seeds), play.width, play.height)
    frames = np.empty((play.length, play.height, play.width, 3), dtype=np.uint8)
    masks = np.zeros((len(play.actors), play.length, play.height, play.width), dtype=np.bool_)
    core = np.zeros((play.height, play.width), dtype=np.bool_)
    for number in range(play.length):
        image = still.copy()
        for place, actor in enumerate(play.actors):
            if _in_view(actor, number, play):
                paint = np.random.default_rng([*seeds, place])
                thing = replace(actor.thing, centre_px=actor.centres_px[number])
                draw_thing(paint, thing, image, masks[place, number], core)
        if play.screen is not None:
            x0, y0, x1, y1 = play.screen
            cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), _SCREEN_RGB, -1)
            cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), _SCREEN_EDGE_RGB, 1)
            masks[:, number, y0:y1, x0:x1] = False
        frames[number] = to_pixels(image)
    return frames, masks


def _in_view(actor: Actor, frame: int, play: Play) -> bool:
    """Whether at least one whole pixel of the object's box lies in the image."""
    (x, y), (half_x, half_y) = actor.centres_px[frame], actor.thing.outline_px.max(axis=0)
    return -half_x + 1 < x < play.width + half_x - 1 and -half_y + 1 < y < play.height + half_y - 1


# ---------------------------------------------------------------- what is drawn by lot
def _screen(rng: Random, canvas: tuple[int, int]) -> tuple[int, int, int, int]:
    sides = [rng.randint(*SCREEN_PX) for _ in canvas]
    left, top = (rng.randint(side // 4, whole - side - side // 4) for side, whole in zip(sides, canvas, strict=True))
    return left, top, left + sides[0], top + sides[1]


def _draw_actors(
    rng: Random, split: Split, canvas: tuple[int, int], length: int, screen: tuple[int, int, int, int] | None
) -> list[Actor]:
    """Return up to four objects; none where the first found no room. With a screen, the first one goes behind it."""
    actors: list[Actor] = []
    taken: list[Box] = []
    for place in range(rng.choices((2, 3, 4), (30, 45, 25))[0]):
        pair = _pair(rng, split, [actor.thing.pair for actor in actors])
        behind = screen if place == 0 else None
        deed = _deed(rng, behind is not None, actors[-1].deed if actors else None)
        actor = _placed(rng, pair, deed, canvas, length, behind, taken if behind else [*taken, *_boxes(screen)])
        if actor is None and place == 0:
            return []
        if actor is not None:
            actors.append(actor)
            taken.append(_swept(actor))
    return actors


def _boxes(screen: tuple[int, int, int, int] | None) -> list[Box]:
    return [] if screen is None else [tuple(map(float, screen))]  # type: ignore[list-item]


def _pair(rng: Random, split: Split, earlier: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """A (color, shape): of ``earlier`` ones the last's color, shape or both, now and then, as far as it is allowed."""
    allowed = HELD_OUT_PAIRS if split == "unseen" and not earlier else PAIRS if split == "unseen" else KNOWN_PAIRS
    if earlier and rng.random() < ALIKE_SHARE:
        color, shape = earlier[-1]
        like = rng.choice([(color, None), (None, shape), (None, shape), (color, shape)])
        alike = [pair for pair in allowed if like[0] in (None, pair[0]) and like[1] in (None, pair[1])]
        return rng.choice(alike or list(allowed))
    return rng.choice(allowed)


def _deed(rng: Random, behind: bool, before: Deed | None) -> Deed:
    start = rng.choice(STARTS)
    if behind:
        hides = rng.random() < 0.5
        return Deed((rng.choice(MOTIONS),), "hidden" if hides else "seen", not hides, rng.choice(STARTS[:3]))
    if before is not None and before.ending != "hidden" and not before.returns and rng.random() < ALIKE_SHARE:
        return replace(before, start=start)
    draw = rng.random()
    if draw < 0.25:
        return Deed()
    first = rng.choice(MOTIONS)
    if draw < 0.7:
        return Deed((first,), start=start)
    if draw < 0.88:
        return Deed((first, rng.choice([way for way in MOTIONS if way != first])), start=start)
    return Deed((first,), "gone", start=start)


# ---------------------------------------------------------------- where it is drawn
def _placed(
    rng: Random,
    pair: tuple[str, str],
    deed: Deed,
    canvas: tuple[int, int],
    length: int,
    screen: tuple[int, int, int, int] | None,
    taken: Sequence[Box],
) -> Actor | None:
    """An object whose whole way is clear of what is taken, if one was found in so many attempts."""
    diameter = rng.uniform(*DIAMETER_PX)
    points, core_px = outline(pair[1], diameter, rng.uniform(-1, 1))
    half: Point = (float(points[:, 0].max()), float(points[:, 1].max()))
    thing = moving_thing(rng, *pair, diameter, points, core_px, (0.0, 0.0))
    for _ in range(_ATTEMPTS):
        legs = [rng.randint(*TRAVEL_PX) for _ in deed.ways]
        if screen is not None:
            way = _behind(rng, deed, half, canvas, screen)
        elif deed.ending == "gone":
            way = _leaving(rng, deed, legs[0], half, canvas)
        else:
            way = _inside(rng, deed, legs, half, canvas)
        if way is None:
            continue
        actor = Actor(replace(thing, centre_px=way[0]), deed, _walked(way, deed.start, length))
        if all(clear(_swept(actor), other) for other in taken) and (
            screen is None or _hidden_frames(actor, screen) >= HIDDEN_FRAMES
        ):
            return actor
    return None


def _inside(rng: Random, deed: Deed, legs: Sequence[int], half: Point, canvas: tuple[int, int]) -> list[Point] | None:
    """Corners of a way that stays in the image; None where it is too long for it."""
    corners: list[Point] = [(0.0, 0.0)]
    for way, leg in zip(deed.ways, legs, strict=True):
        corners.append((corners[-1][0] + STEPS[way][0] * leg, corners[-1][1] + STEPS[way][1] * leg))
    start = []
    for axis in (0, 1):
        low, high = min(corner[axis] for corner in corners), max(corner[axis] for corner in corners)
        first, last = EDGE_PX + half[axis] - low, canvas[axis] - EDGE_PX - half[axis] - high
        if first > last:
            return None
        start.append(rng.uniform(first, last))
    return [(start[0] + x, start[1] + y) for x, y in corners]


def _leaving(rng: Random, deed: Deed, seen_px: int, half: Point, canvas: tuple[int, int]) -> list[Point] | None:
    """A way out of the image: the object is seen whole for ``seen_px``, then goes until nothing of it is left."""
    step = STEPS[deed.ways[0]]
    axis = 0 if step[0] else 1
    forth = step[axis] > 0
    edge = canvas[axis] if forth else 0
    near = edge - step[axis] * (half[axis] + seen_px)
    if not EDGE_PX + half[axis] <= near <= canvas[axis] - EDGE_PX - half[axis]:
        return None
    across = rng.uniform(EDGE_PX + half[1 - axis], canvas[1 - axis] - EDGE_PX - half[1 - axis])
    far = edge + step[axis] * (half[axis] + EDGE_PX)
    return [_point(axis, near, across), _point(axis, far, across)]


def _behind(
    rng: Random, deed: Deed, half: Point, canvas: tuple[int, int], screen: tuple[int, int, int, int]
) -> list[Point] | None:
    """A way from beside the screen to behind it, or through to its other side."""
    step = STEPS[deed.ways[0]]
    axis = 0 if step[0] else 1
    low, high = screen[axis], screen[axis + 2]
    lane = (screen[1 - axis] + half[1 - axis] + 1, screen[3 - axis] - half[1 - axis] - 1)
    if lane[0] > lane[1]:
        return None
    across, outside = rng.uniform(*lane), rng.uniform(10, 30)
    before = low - half[axis] - outside if step[axis] > 0 else high + half[axis] + outside
    after = (low + high) / 2
    if deed.returns:
        beyond = rng.uniform(10, 30)
        after = high + half[axis] + beyond if step[axis] > 0 else low - half[axis] - beyond
    inside = (EDGE_PX + half[axis], canvas[axis] - EDGE_PX - half[axis])
    if not all(inside[0] <= end <= inside[1] for end in (before, after)):
        return None
    return [_point(axis, before, across), _point(axis, after, across)]


def _point(axis: int, along: float, across: float) -> Point:
    return (along, across) if axis == 0 else (across, along)


def _walked(corners: Sequence[Point], start: int, length: int) -> tuple[Point, ...]:
    """The center in each frame: at rest until ``start``, then evenly along ``corners`` to the last frame.

    In whole pixels from the first corner, so that an object keeps its pixels.
    """
    legs = [max(abs(b[0] - a[0]), abs(b[1] - a[1])) for a, b in zip(corners, corners[1:], strict=False)]
    places: list[Point] = []
    for frame in range(length):
        left = sum(legs) * max(0, frame - start) / (length - 1 - start)
        x, y = corners[0]
        for (from_x, from_y), (to_x, to_y), leg in zip(corners, corners[1:], legs, strict=False):
            share = min(max(left / leg, 0.0), 1.0)
            x, y = x + (to_x - from_x) * share, y + (to_y - from_y) * share
            left -= leg
        places.append((corners[0][0] + round(x - corners[0][0]), corners[0][1] + round(y - corners[0][1])))
    return tuple(places)


def _swept(actor: Actor) -> Box:
    """The box (x0, y0, x1, y1) that an object covers on its whole way."""
    half_x, half_y = actor.thing.outline_px.max(axis=0).tolist()
    xs, ys = zip(*actor.centres_px, strict=True)
    return min(xs) - half_x, min(ys) - half_y, max(xs) + half_x, max(ys) + half_y


def _hidden_frames(actor: Actor, screen: tuple[int, int, int, int]) -> int:
    half_x, half_y = actor.thing.outline_px.max(axis=0).tolist()
    return sum(
        screen[0] + half_x < x < screen[2] - half_x and screen[1] + half_y < y < screen[3] - half_y
        for x, y in actor.centres_px
    )
