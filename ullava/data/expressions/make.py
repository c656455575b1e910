"""Expressions drawn for one photograph: what to speak of, in which form, in the words of the synthetic world."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from ullava.data.expressions.colors import NAMES
from ullava.data.expressions.photo import Photo
from ullava.data.expressions.rules import NEAR_MARGIN, denote, gap, matches
from ullava.synthetic.forms import (
    SIDES,
    ZONES,
    Both,
    Description,
    Direction,
    Extreme,
    Form,
    InZone,
    Nearest,
    Ordinal,
    Rank,
    Relation,
    Select,
)
from ullava.synthetic.language import phrase
from ullava.synthetic.plurals import several_words

KINDS: Mapping[str, float] = {
    "class": 0.12,
    "color": 0.16,
    "size": 0.08,
    "position": 0.16,
    "order": 0.12,
    "relation": 0.12,
    "count": 0.12,
    "absent": 0.12,
}
"""The kinds with how often each is tried; not every kind fits every image, so these are not the final shares."""
_ATTEMPTS = 12
_EASY = frozenset({"class", "absent"})
_OF_EASY, _OF_OTHERS = 5, 3
"""One in so many of an image's expressions may be of one kind: these fit nearly every image."""
_FURTHEST = 3
_MASS = frozenset({"broccoli", "bread", "grass", "food", "water", "hair", "clothing"})
_EASILY_TAKEN_FOR = (
    frozenset({"car", "truck", "bus", "van"}),
    frozenset({"couch", "chair", "bench", "bed"}),
    frozenset({"cup", "wine glass", "bowl", "vase", "bottle", "potted plant"}),
    frozenset({"tv", "laptop", "cell phone", "remote", "keyboard"}),
    frozenset({"handbag", "backpack", "suitcase"}),
    frozenset({"cake", "sandwich", "donut", "hot dog", "pizza"}),
    frozenset({"skis", "snowboard"}),
    frozenset({"motorcycle", "bicycle"}),
    frozenset({"horse", "cow", "sheep"}),
    frozenset({"apple", "orange"}),
    frozenset({"fork", "knife", "spoon"}),
    frozenset({"microwave", "oven", "toaster"}),
    frozenset({"dining table", "desk", "table", "chair"}),
)
"""Classes that annotators do not tell apart for sure: the one is not called absent where the other is."""


@dataclass(frozen=True, slots=True)
class PhotoExpression:
    """Words, the places of the objects that they mean (none: absent), and the kind by which they are counted."""

    words: str
    targets: tuple[int, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """What expressions are drawn with.

    ``kinds`` have weights; ``min_area``: the least share of the image that a target covers; ``class_counts``: in how
    many images of the file each class is. An absent class is drawn by that: none gives itself away.
    """

    kinds: Mapping[str, float]
    min_area: float
    class_counts: Mapping[str, int]


def expressions_of(photo: Photo, drawing: Drawing, count: int, rng: Random) -> list[PhotoExpression]:
    """Return up to ``count`` different expressions of an image, in the order in which they were drawn."""
    found: dict[str, PhotoExpression] = {}
    weights = dict(drawing.kinds)
    tried: dict[str, int] = {}
    most = {kind: math.ceil(count / (_OF_EASY if kind in _EASY else _OF_OTHERS)) for kind in weights}
    if len(weights) == 1:
        most = dict.fromkeys(weights, count)
    while weights and len(found) < count:
        kind = rng.choices(list(weights), list(weights.values()))[0]
        tried[kind] = tried.get(kind, 0) + 1
        made = _one(kind, photo, drawing, rng)
        if made is None or made.words in found:
            if tried[kind] >= _ATTEMPTS or made is None:
                del weights[kind]
            continue
        found[made.words] = made
        most[kind] -= 1
        if not most[kind]:
            del weights[kind]
    return list(found.values())


def _one(kind: str, photo: Photo, drawing: Drawing, rng: Random) -> PhotoExpression | None:
    """Return an expression of a kind that is certain, or None where no attempt gave one."""
    for _ in range(_ATTEMPTS):
        form = _MAKERS[kind](photo, drawing, rng)
        if form is None:
            continue
        targets = denote(form, photo)
        if targets is None or bool(targets) == (kind == "absent"):
            continue
        if any(photo.objects[place].area < drawing.min_area for place in targets):
            continue
        if kind != "count" and len(targets) > 1:
            continue
        if kind == "count" and len(targets) < 2:
            continue
        return PhotoExpression(_words(form, sorted(targets), photo, rng), tuple(sorted(targets)), kind)
    return None


def _words(form: Form, targets: Sequence[int], photo: Photo, rng: Random) -> str:
    if len(targets) > 1:
        return several_words(form, len(targets), rng)
    absent = not targets and isinstance(form, Select | Relation | InZone)
    if absent and rng.random() < 0.15 and not isinstance(form, Both) and _countable(form.what):
        return "all " + phrase(form, rng, many=True).removeprefix("the ")
    words = phrase(form, rng)
    if isinstance(form, Nearest) and _adjacent(form, targets[0], photo) and rng.random() < 0.6:
        return words.replace(" nearest to ", " next to ").replace(" closest to ", " next to ")
    return words


def _adjacent(form: Nearest, target: int, photo: Photo) -> bool:
    anchors = matches(form.anchor, photo) or []
    distance = gap(photo.objects[target].box, photo.objects[anchors[0]].box)
    return distance <= NEAR_MARGIN / 2 * math.hypot(photo.width, photo.height)


# ---------------------------------------------------------------- forms, by kind
def _wanted(photo: Photo, drawing: Drawing, rng: Random, alike: bool) -> Description | None:
    """Return the class of an object large enough; ``alike``: one that is there more than once, and can be counted."""
    names = [
        thing.name
        for thing in photo.objects
        if thing.area >= drawing.min_area
        and thing.name not in photo.unsure
        and (not alike or (len(photo.of(thing.name)) > 1 and _countable(Description(shape=thing.name))))
    ]
    return Description(shape=rng.choice(sorted(set(names)))) if names else None


def _countable(what: Description) -> bool:
    """Whether a noun has a plural of its own: nobody speaks of the second skis, or of two breads."""
    last = (what.shape or "").split()[-1]
    return last not in _MASS and not (last.endswith("s") and not last.endswith(("ss", "us")))


def _colored(photo: Photo, drawing: Drawing, rng: Random, alike: bool = False) -> Description | None:
    """Return class and color of an object whose color is clear."""
    things = [
        thing
        for thing in photo.objects
        if thing.color is not None and thing.area >= drawing.min_area and thing.name not in photo.unsure
    ]
    things = [thing for thing in things if not alike or len(photo.of(thing.name)) > 1]
    if not things:
        return None
    thing = rng.choice(things)
    return Description(colour=thing.color, shape=thing.name)


def _described(photo: Photo, drawing: Drawing, rng: Random, alike: bool) -> Description | None:
    """Return a class, now and then with a color."""
    colored = _colored(photo, drawing, rng, alike) if rng.random() < 0.2 else None
    return colored or _wanted(photo, drawing, rng, alike)


def _class(photo: Photo, drawing: Drawing, rng: Random) -> Form | None:
    what = _wanted(photo, drawing, rng, alike=False)
    return None if what is None else Select(what)


def _color(photo: Photo, drawing: Drawing, rng: Random) -> Form | None:
    what = _colored(photo, drawing, rng, alike=rng.random() < 0.7)
    return None if what is None else Select(what)


def _size(photo: Photo, drawing: Drawing, rng: Random) -> Form | None:
    what = _described(photo, drawing, rng, alike=True)
    rank: Rank = "largest" if rng.random() < 0.65 else "smallest"
    return None if what is None else Extreme(what, rank)


def _position(photo: Photo, drawing: Drawing, rng: Random) -> Form | None:
    what = _described(photo, drawing, rng, alike=rng.random() < 0.8)
    if what is None:
        return None
    draw = rng.random()
    if draw < 0.45:
        rank: Rank = rng.choices(("left", "right", "top", "bottom"), (4, 4, 1, 1))[0]  # type: ignore[assignment]
        return Extreme(what, rank)
    return InZone(what, rng.choice(ZONES) if draw < 0.65 else rng.choice(("left", "right", "middle")))


def _order(photo: Photo, drawing: Drawing, rng: Random) -> Form | None:
    what = _described(photo, drawing, rng, alike=True)
    if what is None:
        return None
    most = min(len(matches(what, photo) or ()), _FURTHEST)
    if most < 2:
        return None
    number = 1 if rng.random() < 0.15 else rng.randint(2, most)
    return Ordinal(what, number, rng.choice(SIDES[:2]))


def _anchors(photo: Photo, drawing: Drawing) -> list[Description]:
    """Return the classes that are there once, large enough to be spoken of."""
    return [
        Description(shape=thing.name)
        for thing in photo.objects
        if thing.area >= drawing.min_area and thing.name not in photo.unsure and len(photo.of(thing.name)) == 1
    ]


def _relation(photo: Photo, drawing: Drawing, rng: Random) -> Form | None:
    what, anchors = _described(photo, drawing, rng, alike=rng.random() < 0.8), _anchors(photo, drawing)
    anchors = [anchor for anchor in anchors if what is None or anchor.shape != what.shape]
    if what is None or not anchors:
        return None
    anchor = rng.choice(anchors)
    return Nearest(what, anchor) if rng.random() < 0.4 else Relation(what, _direction(rng), anchor)


def _direction(rng: Random) -> Direction:
    found: Direction = rng.choices(("left", "right", "above", "below"), (4, 4, 2, 1))[0]  # type: ignore[assignment]
    return found


def _count(photo: Photo, drawing: Drawing, rng: Random) -> Form | None:
    draw = rng.random()
    if draw < 0.25:
        anchors = _anchors(photo, drawing)
        if len(anchors) < 2:
            return None
        first, second = rng.sample(anchors, 2)
        return Both(first, second)
    what = _described(photo, drawing, rng, alike=True)
    if what is None:
        return None
    if draw < 0.8:
        return Select(what)
    if draw < 0.9:
        return InZone(what, rng.choice(("left", "right")))
    anchors = [anchor for anchor in _anchors(photo, drawing) if anchor.shape != what.shape]
    return Relation(what, _direction(rng), rng.choice(anchors)) if anchors else None


def _absent(photo: Photo, drawing: Drawing, rng: Random) -> Form | None:
    """Return a form that nothing answers to: a class that is not there, or one that is, of another color or place."""
    draw = rng.random()
    if draw < 0.6:
        name = absent_class(photo, drawing.class_counts, rng)
        what = None if name is None else Description(shape=name)
    else:
        what = _wanted(photo, drawing, rng, alike=False)
    if what is None:
        return None
    if draw < 0.45:
        return Select(what)
    if draw < 0.52:
        return InZone(what, rng.choice(ZONES[4:8]))
    if draw < 0.6:
        anchors = _anchors(photo, drawing)
        return Relation(what, _direction(rng), rng.choice(anchors)) if anchors else None
    if draw < 0.85:
        return Select(Description(colour=rng.choice(NAMES), shape=what.shape))
    return InZone(what, rng.choice(ZONES[4:6]))


def absent_class(photo: Photo, counts: Mapping[str, int], rng: Random) -> str | None:
    """Draw a class that is not in the image, nor easily taken for one that is; common ones more often."""
    there = {thing.name for thing in photo.objects} | photo.unsure
    doubtful = set().union(*(group for group in _EASILY_TAKEN_FOR if group & there))
    names = [name for name in sorted(counts) if name not in there and name not in doubtful and counts[name] > 0]
    return rng.choices(names, [math.sqrt(counts[name]) for name in names])[0] if names else None


_MAKERS: dict[str, Callable[[Photo, Drawing, Random], Form | None]] = {
    "class": _class,
    "color": _color,
    "size": _size,
    "position": _position,
    "order": _order,
    "relation": _relation,
    "count": _count,
    "absent": _absent,
}


def weights_of(kinds: Collection[str] | None) -> dict[str, float]:
    """Return the weights of the ``kinds`` that were asked for, all without any."""
    return {kind: weight for kind, weight in KINDS.items() if kinds is None or kind in kinds}
