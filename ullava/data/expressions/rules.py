"""What a form of the synthetic world's grammar means in a photograph, with margins: None where people could disagree.

Photographs have depth and objects of all sizes, so margins are shares of the image and of the objects, and all objects
of a class count, also those too small to be asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ullava.data.expressions.photo import Photo, PhotoObject
from ullava.synthetic.forms import (
    Both,
    Denotation,
    Description,
    Extreme,
    Form,
    InZone,
    Nearest,
    Ordinal,
    Relation,
    Select,
)

MARGIN = 0.05
"""Centers in a row are at least this share of the image's side apart ..."""
OWN_MARGIN = 0.4
"""... and this share of the smaller object's."""
UPRIGHT_MARGIN = 0.12
"""The same from top to bottom, where depth confuses."""
SIZE_RATIO, SIZE_RATIO_OF_BOXES = 1.6, 2.0
"""How many times the area of the next the largest has."""
LOW, NOT_LOW, NO_PART_BELOW = 0.36, 0.55, 0.35
"""A center is on the left where it is left of the first share; an object certainly is not where its center is right of
the second and nothing of it left of the third."""
MIDDLE, NOT_MIDDLE = 0.12, 0.26
"""The same about the distance to the middle."""
WIDEST = 0.6
"""What takes more of the image's side lies on no side of it, and has no place in a row."""
MOST_ALIKE = 7
"""Of more objects of a class annotators lose count."""
NEAR_RATIO, NEAR_MARGIN = 1.5, 0.06
"""The nearest is so many times nearer than the next, and by this share of the image's diagonal."""
NEAR_AT_MOST = 0.3
"""Farther away (in diagonals) nothing is called near."""


def matches(what: Description, photo: Photo) -> list[int] | None:
    """Return the places of the objects that fit; None where the color of one is not certain, or of crowds."""
    if what.shape is None or what.shape in photo.unsure:
        return None
    places = photo.of(what.shape)
    if what.colour is None:
        return places
    things = [photo.objects[place] for place in places]
    if any(thing.color != what.colour and what.colour not in thing.not_colors for thing in things):
        return None
    return [place for place, thing in zip(places, things, strict=True) if thing.color == what.colour]


def denote(form: Form, photo: Photo) -> Denotation:
    """Return the places of ``photo.objects`` that a form means; none where nothing fits; None where it is not clear."""
    return _RULES[type(form)](form, photo)


# ---------------------------------------------------------------- one rule a form
def _select(form: Select, photo: Photo) -> Denotation:
    places = matches(form.what, photo)
    return None if places is None or len(places) > MOST_ALIKE else frozenset(places)


def _row(places: Sequence[int], photo: Photo, side: str) -> list[int] | None:
    """Return objects in their order from a side; None where two of them are too close to tell."""
    axis, length = (0, photo.width) if side in ("left", "right") else (1, photo.height)
    share = MARGIN if axis == 0 else UPRIGHT_MARGIN
    row = sorted(places, key=lambda place: photo.objects[place].center[axis], reverse=side in ("right", "bottom"))
    if any(_length(photo.objects[place], axis) > WIDEST * length for place in row):
        return None
    for one, other in zip(row, row[1:], strict=False):
        first, second = photo.objects[one], photo.objects[other]
        apart = abs(second.center[axis] - first.center[axis])
        if apart < share * length or apart < OWN_MARGIN * min(_length(first, axis), _length(second, axis)):
            return None
    return row


def _extreme(form: Extreme, photo: Photo) -> Denotation:
    places = matches(form.what, photo)
    if places is None or len(places) < 2:
        return frozenset() if places == [] else None
    if form.rank in ("largest", "smallest"):
        largest = form.rank == "largest"
        row = sorted(places, key=lambda place: photo.objects[place].area, reverse=largest)
        big, small = (row[0], row[1]) if largest else (row[1], row[0])
        masked = all(photo.objects[place].masked for place in places)
        ratio = SIZE_RATIO if masked else SIZE_RATIO_OF_BOXES
        clear = photo.objects[big].area >= ratio * photo.objects[small].area
        return frozenset({row[0]}) if clear else None
    axis = 0 if form.rank in ("left", "right") else 1
    row = sorted(places, key=lambda place: photo.objects[place].center[axis], reverse=form.rank in ("right", "bottom"))
    return frozenset({row[0]}) if all(_row([row[0], other], photo, form.rank) for other in row[1:]) else None


def _ordinal(form: Ordinal, photo: Photo) -> Denotation:
    places = matches(form.what, photo)
    if places is None or len(places) < 2 or len(places) > MOST_ALIKE or form.number > len(places):
        return frozenset() if places == [] else None
    row = _row(places, photo, form.side)
    return None if row is None else frozenset({row[form.number - 1]})


def _anchor(what: Description, photo: Photo) -> PhotoObject | None:
    places = matches(what, photo)
    return photo.objects[places[0]] if places is not None and len(places) == 1 else None


def _relation(form: Relation, photo: Photo) -> Denotation:
    anchor, places = _anchor(form.anchor, photo), matches(form.what, photo)
    if anchor is None or places is None or len(places) > MOST_ALIKE:
        return None
    found = []
    for place in places:
        thing = photo.objects[place]
        if thing is anchor:
            continue
        there = beside(thing, anchor, form.direction, photo)
        if there is None:
            return None
        if there:
            found.append(place)
    return frozenset(found)


def beside(thing: PhotoObject, anchor: PhotoObject, direction: str, photo: Photo) -> bool | None:
    """Whether an object is left of, right of, above or below another; None where a person could hesitate.

    It is where it lies beyond the other's edge (but for a fifth of the smaller one) and within 45 degrees of the
    direction, and is not where its center lies on the other side.
    """
    axis = 0 if direction in ("left", "right") else 1
    before = direction in ("left", "above")
    low, high = (thing, anchor) if before else (anchor, thing)
    ahead = high.center[axis] - low.center[axis]
    if ahead <= 0:
        return False
    overlap = low.box[axis + 2] - high.box[axis]
    aside = abs(high.center[1 - axis] - low.center[1 - axis])
    smaller = min(_length(thing, axis), _length(anchor, axis))
    clear = ahead >= MARGIN * (photo.width, photo.height)[axis] and overlap <= 0.2 * smaller and aside <= ahead
    return True if clear else None


def _nearest(form: Nearest, photo: Photo) -> Denotation:
    anchor, places = _anchor(form.anchor, photo), matches(form.what, photo)
    if anchor is None or places is None or len(places) > MOST_ALIKE:
        return None
    others = [place for place in places if photo.objects[place] is not anchor]
    if len(others) < 2:
        return None
    diagonal = math.hypot(photo.width, photo.height)
    centers = sorted((math.dist(photo.objects[place].center, anchor.center) / diagonal, place) for place in others)
    gaps = {place: gap(photo.objects[place].box, anchor.box) / diagonal for place in others}
    (near, first), (next_near, _) = centers[0], centers[1]
    clear = next_near >= NEAR_RATIO * near and next_near - near >= NEAR_MARGIN and near <= NEAR_AT_MOST
    clear = clear and all(gaps[place] >= gaps[first] + NEAR_MARGIN for place in others if place != first)
    return frozenset({first}) if clear else None


def gap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the distance between two boxes in pixels, 0 where they touch."""
    across = max(one[0] - other[2], other[0] - one[2], 0.0)
    down = max(one[1] - other[3], other[1] - one[3], 0.0)
    return math.hypot(across, down)


def in_zone(thing: PhotoObject, zone: str, photo: Photo) -> bool | None:
    """Whether an object lies in a zone of the image; None where a person could hesitate."""
    if zone == "middle":
        off = [abs(thing.center[axis] / side - 0.5) for axis, side in enumerate((photo.width, photo.height))]
        answers = [True if value <= MIDDLE else False if value >= NOT_MIDDLE else None for value in off]
    else:
        answers = [_on_side(thing, word, photo) for word in zone.split()]
    return False if False in answers else None if None in answers else True


def _on_side(thing: PhotoObject, word: str, photo: Photo) -> bool | None:
    axis = 0 if word in ("left", "right") else 1
    side = (photo.width, photo.height)[axis]
    value, edge = thing.center[axis] / side, thing.box[axis] / side
    if word in ("right", "bottom"):
        value, edge = 1 - value, 1 - thing.box[axis + 2] / side
    if value >= NOT_LOW and edge >= NO_PART_BELOW:
        return False
    return True if value <= LOW and _length(thing, axis) <= WIDEST * side else None


def _in_zone(form: InZone, photo: Photo) -> Denotation:
    places = matches(form.what, photo)
    if places is None or len(places) > MOST_ALIKE:
        return None
    answers = [in_zone(photo.objects[place], form.zone, photo) for place in places]
    if None in answers:
        return None
    return frozenset(place for place, inside in zip(places, answers, strict=True) if inside)


def _both(form: Both, photo: Photo) -> Denotation:
    first, second = matches(form.first, photo), matches(form.second, photo)
    if first is None or second is None or len(first) != 1 or len(second) != 1 or first == second:
        return None
    return frozenset({first[0], second[0]})


def _length(thing: PhotoObject, axis: int) -> float:
    return thing.box[axis + 2] - thing.box[axis]


_RULES: dict[type, Callable[..., Denotation]] = {
    Select: _select,
    Extreme: _extreme,
    Ordinal: _ordinal,
    Relation: _relation,
    Nearest: _nearest,
    InZone: _in_zone,
    Both: _both,
}
