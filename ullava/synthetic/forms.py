"""Logical forms: what an expression means, and how it is carried out on a scene.

``denote`` gives the places of the objects that a form speaks of, or None where a person could disagree: positions
closer together than MARGIN_PX, sizes too alike, objects on the border of an image's corner.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ullava.synthetic.scene import Scene, Thing

MARGIN_PX = 10.0
SIZE_RATIO = 1.25
AREA_RATIO = 1.2

Direction = Literal["left", "right", "above", "below"]
Side = Literal["left", "right", "top", "bottom"]
Rank = Literal["left", "right", "top", "bottom", "largest", "smallest"]
Zone = Literal["top left", "top right", "bottom left", "bottom right", "left", "right", "top", "bottom", "middle"]

DIRECTIONS: tuple[Direction, ...] = ("left", "right", "above", "below")
SIDES: tuple[Side, ...] = ("left", "right", "top", "bottom")
RANKS: tuple[Rank, ...] = ("left", "right", "top", "bottom", "largest", "smallest")
ZONES: tuple[Zone, ...] = (
    "top left", "top right", "bottom left", "bottom right", "left", "right", "top", "bottom", "middle",
)  # fmt: skip

Denotation = frozenset[int] | None
NOTHING: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Description:
    """A conjunction of attributes; None leaves one open. ``core`` is a colour, or "any"."""

    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    texture: str | None = None
    core: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether ``thing`` has every attribute named."""
        return (
            (self.colour is None or thing.colour == self.colour)
            and (self.shape is None or thing.shape == self.shape)
            and (self.size is None or thing.size == self.size)
            and (self.texture is None or thing.texture == self.texture)
            and (self.core is None or thing.core == self.core or (self.core == "any" and thing.core is not None))
        )

    def matches(self, scene: Scene) -> list[int]:
        """Places of the objects that fit."""
        return [place for place, thing in enumerate(scene.things) if self.fits(thing)]


@dataclass(frozen=True, slots=True)
class Select:
    """Everything that fits: "the red star", "all circles"."""

    what: Description


@dataclass(frozen=True, slots=True)
class Extreme:
    """The one at an end of a row or of the sizes: "the leftmost star", "the largest shape"."""

    what: Description
    rank: Rank


@dataclass(frozen=True, slots=True)
class Ordinal:
    """The n-th (from 1) as counted from a side: "the second circle from the left"."""

    what: Description
    number: int
    side: Side


@dataclass(frozen=True, slots=True)
class Relation:
    """Those on one side of a single other object: "the star below the blue heart"."""

    what: Description
    direction: Direction
    anchor: Description


@dataclass(frozen=True, slots=True)
class Nearest:
    """The one whose centre is nearest to a single other object's centre."""

    what: Description
    anchor: Description


@dataclass(frozen=True, slots=True)
class InZone:
    """Those in a corner, a half or the middle of the image."""

    what: Description
    zone: Zone


@dataclass(frozen=True, slots=True)
class Both:
    """Two different single things: "the red star and the blue ring"."""

    first: Description
    second: Description


Form = Select | Extreme | Ordinal | Relation | Nearest | InZone | Both


def _position(thing: Thing, side: Side) -> float:
    """How far along from ``side`` the object's centre is."""
    x, y = thing.centre_px
    return {"left": x, "right": -x, "top": y, "bottom": -y}[side]


def clearly_larger(one: Thing, other: Thing) -> bool:
    """Whether a person would call ``one`` the larger without measuring."""
    return one.diameter_px >= SIZE_RATIO * other.diameter_px and one.area_px >= AREA_RATIO * other.area_px


def _select(form: Select, scene: Scene) -> Denotation:
    return frozenset(form.what.matches(scene))


def _extreme(form: Extreme, scene: Scene) -> Denotation:
    places = form.what.matches(scene)
    if len(places) < 2:
        return None if places else NOTHING
    things = scene.things
    if form.rank == "largest":
        best = max(places, key=lambda p: things[p].diameter_px)
        clear = all(clearly_larger(things[best], things[p]) for p in places if p != best)
    elif form.rank == "smallest":
        best = min(places, key=lambda p: things[p].diameter_px)
        clear = all(clearly_larger(things[p], things[best]) for p in places if p != best)
    else:
        row = sorted((_position(things[p], form.rank), p) for p in places)
        best, clear = row[0][1], row[1][0] - row[0][0] >= MARGIN_PX
    return frozenset({best}) if clear else None


def _ordinal(form: Ordinal, scene: Scene) -> Denotation:
    places = form.what.matches(scene)
    if len(places) < 2:
        return None if places else NOTHING
    if form.number > len(places):
        return None
    row = sorted((_position(scene.things[p], form.side), p) for p in places)
    if any(after[0] - before[0] < MARGIN_PX for before, after in zip(row, row[1:], strict=False)):
        return None
    return frozenset({row[form.number - 1][1]})


def _anchor(what: Description, scene: Scene) -> int | None:
    places = what.matches(scene)
    return places[0] if len(places) == 1 else None


def _relation(form: Relation, scene: Scene) -> Denotation:
    anchor = _anchor(form.anchor, scene)
    if anchor is None:
        return None
    ax, ay = scene.things[anchor].centre_px
    found = []
    for place in form.what.matches(scene):
        if place == anchor:
            continue
        x, y = scene.things[place].centre_px
        ahead = {"left": ax - x, "right": x - ax, "above": ay - y, "below": y - ay}[form.direction]
        if abs(ahead) < MARGIN_PX:
            return None
        if ahead > 0:
            found.append(place)
    return frozenset(found)


def _nearest(form: Nearest, scene: Scene) -> Denotation:
    anchor = _anchor(form.anchor, scene)
    if anchor is None:
        return None
    centre = scene.things[anchor].centre_px
    places = [place for place in form.what.matches(scene) if place != anchor]
    row = sorted((math.dist(scene.things[p].centre_px, centre), p) for p in places)
    if len(row) < 2:
        return None
    return frozenset({row[0][1]}) if row[1][0] - row[0][0] >= MARGIN_PX else None


def _inside(value: float, word: str) -> bool | None:
    """Whether ``value`` in [0, 1] lies at the low end, at the high end or in the middle; None on the border."""
    if word == "middle":
        off = abs(value - 0.5)
        return True if off <= 0.14 else False if off >= 0.24 else None
    low = value if word in ("left", "top") else 1 - value
    return True if low <= 0.42 else False if low >= 0.52 else None


def in_zone(thing: Thing, zone: Zone, scene: Scene) -> bool | None:
    """Whether the object's centre lies in ``zone`` of the image; None where a person could hesitate."""
    x, y = thing.centre_px[0] / scene.width, thing.centre_px[1] / scene.height
    words = ["middle", "middle"] if zone == "middle" else zone.split()
    values = [x, y] if zone == "middle" else [y if word in ("top", "bottom") else x for word in words]
    answers = [_inside(value, word) for value, word in zip(values, words, strict=True)]
    if False in answers:
        return False
    return None if None in answers else True


def _in_zone(form: InZone, scene: Scene) -> Denotation:
    found = []
    for place in form.what.matches(scene):
        inside = in_zone(scene.things[place], form.zone, scene)
        if inside is None:
            return None
        if inside:
            found.append(place)
    return frozenset(found)


def _both(form: Both, scene: Scene) -> Denotation:
    first, second = _anchor(form.first, scene), _anchor(form.second, scene)
    return None if first is None or second is None or first == second else frozenset({first, second})


_RULES: dict[type, Callable[..., Denotation]] = {
    Select: _select,
    Extreme: _extreme,
    Ordinal: _ordinal,
    Relation: _relation,
    Nearest: _nearest,
    InZone: _in_zone,
    Both: _both,
}


def denote(form: Form, scene: Scene) -> Denotation:
    """Places in ``scene.things`` that ``form`` speaks of; empty where there is none; None where it is not clear."""
    return _RULES[type(form)](form, scene)
