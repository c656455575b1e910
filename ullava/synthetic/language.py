"""Referring expressions: forms picked by lot until one denotes exactly what is wanted, and their wording."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from ullava.synthetic.forms import (
    DIRECTIONS,
    RANKS,
    SIDES,
    ZONES,
    Both,
    Description,
    Extreme,
    Form,
    InZone,
    Nearest,
    Ordinal,
    Relation,
    Select,
    denote,
)
from ullava.synthetic.scene import Scene, Thing
from ullava.synthetic.vocabulary import HELD_OUT, ORDINAL_WORDS, Split, plural, with_article

KIND_WEIGHTS: dict[str, float] = {
    "attributes": 0.43, "extreme": 0.115, "ordinal": 0.085, "relation": 0.25, "position": 0.12,
}  # fmt: skip
"""How often a kind is tried first. Not every kind fits every object, which is why these are not the final shares."""

REASONING_KINDS: dict[str, float] = {"nearest": 0.65, "later": 0.25, "relation": 0.1}
"""Kinds that take two steps: ``nearest`` to another object, ``later`` than the first in a row."""

FURTHEST_ORDINAL = 3
"""People count from the nearer side: "the third from the left", hardly ever the fifth."""

_RANK_WORDS = {
    "left": ("leftmost",),
    "right": ("rightmost",),
    "top": ("topmost", "highest"),
    "bottom": ("bottommost", "lowest"),
    "largest": ("largest", "biggest"),
    "smallest": ("smallest",),
}
_DIRECTION_WORDS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_ZONE_WORDS = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "middle": ("in the middle",),
}


@dataclass(frozen=True, slots=True)
class Expression:
    """Words, what they mean, and which objects of the scene that is. ``kind`` is for counting shares."""

    words: str
    form: Form
    targets: tuple[int, ...]
    kind: str


# ---------------------------------------------------------------- wording
def describe(what: Description, rng: Random, many: bool = False) -> str:
    """Words for a description, without article: "small striped red circle"."""
    size = {"small": ("small", "small", "little"), "large": ("large", "large", "big")}.get(what.size or "", ("",))
    noun = what.shape or rng.choice(("shape", "shape", "object"))
    words = [rng.choice(size), what.texture or "", what.colour or "", plural(noun) if many else noun]
    if what.core is not None:
        words += ["with", with_article("core" if what.core == "any" else f"{what.core} core")]
    return " ".join(word for word in words if word)


def phrase(form: Form, rng: Random, many: bool = False) -> str:
    """The expression in words, lower case, from its article on: "the star below the blue heart"."""
    if isinstance(form, Both):
        return f"the {describe(form.first, rng)} and the {describe(form.second, rng)}"
    noun = describe(form.what, rng, many)
    if isinstance(form, Select):
        return f"the {noun}"
    if isinstance(form, Extreme):
        return f"the {rng.choice(_RANK_WORDS[form.rank])} {noun}"
    if isinstance(form, Ordinal):
        return f"the {ORDINAL_WORDS[form.number - 1]} {noun} from the {form.side}"
    if isinstance(form, Relation):
        return f"the {noun} {rng.choice(_DIRECTION_WORDS[form.direction])} the {describe(form.anchor, rng)}"
    if isinstance(form, Nearest):
        return f"the {noun} {rng.choice(('nearest', 'closest'))} to the {describe(form.anchor, rng)}"
    zone = rng.choice(_ZONE_WORDS[form.zone]) if form.zone in _ZONE_WORDS else f"in the {form.zone} corner"
    return f"the {noun} {zone}"


# ---------------------------------------------------------------- descriptions of one object
def descriptions(thing: Thing) -> list[Description]:
    """Every description that is true of ``thing``: 16 subsets of its attributes, and some that name its core."""
    found = [
        Description(colour, shape, size, texture)
        for colour in (None, thing.colour)
        for shape in (None, thing.shape)
        for size in (None, thing.size)
        for texture in (None, thing.texture)
    ]
    if thing.core is not None:
        found += [replace(what, core=thing.core) for what in found if what.size is None and what.texture is None]
        found += [replace(what, core="any") for what in found[:16] if what.size is None and what.texture is None]
    return found


def _weight(what: Description, split: Split) -> float:
    """How likely it is put this way. ``unseen`` is about pairs of colour and shape, so it mostly names both."""
    weight = (3.0 if split != "unseen" else 9.0) if what.colour and what.shape else 1.0
    if what.texture == "plain":
        weight *= 0.06
    elif what.texture is not None:
        weight *= 0.6
    if what.core is not None:
        weight *= 0.7
    return weight if what.colour or what.shape else weight * 0.5


def unique_description(scene: Scene, place: int, rng: Random) -> Description | None:
    """A description that fits object ``place`` and no other; short ones more often. None where it has a twin."""
    options, weights = _unique_options(scene, place)
    return rng.choices(options, weights)[0] if options else None


@lru_cache(maxsize=16)
def _unique_options(scene: Scene, place: int) -> tuple[list[Description], list[float]]:
    options = [what for what in descriptions(scene.things[place]) if what.matches(scene) == [place]]
    return options, [_weight(what, scene.split) / (1.0 + 0.25 * _length(what)) for what in options]


def _length(what: Description) -> int:
    return sum(value is not None for value in (what.colour, what.shape, what.size, what.texture, what.core))


def loose_description(scene: Scene, place: int, rng: Random, sized: bool = True) -> Description:
    """A description that fits object ``place`` and, where there is one, fits others too."""
    return rng.choices(*_loose_options(scene, place, sized))[0]


@lru_cache(maxsize=32)
def _loose_options(scene: Scene, place: int, sized: bool) -> tuple[list[Description], list[float]]:
    thing = scene.things[place]
    options = [
        Description(colour, shape, size)
        for colour in (None, thing.colour)
        for shape in (None, thing.shape)
        for size in ((None, thing.size) if sized else (None,))
    ]
    counts = [len(what.matches(scene)) for what in options]
    weights = [(3.0 if count > 1 else 0.4) / (1 + _length(what)) for what, count in zip(options, counts, strict=True)]
    return options, weights


# ---------------------------------------------------------------- one target, by kind
def _attributes(scene: Scene, place: int, rng: Random) -> Form | None:
    what = unique_description(scene, place, rng)
    return None if what is None else Select(what)


def _extreme(scene: Scene, place: int, rng: Random) -> Form | None:
    form = Extreme(loose_description(scene, place, rng, sized=rng.random() < 0.2), rng.choice(RANKS))
    return None if form.what.size and form.rank in ("largest", "smallest") else form


def _ordinal(scene: Scene, place: int, rng: Random) -> Form | None:
    what = loose_description(scene, place, rng, sized=rng.random() < 0.3)
    side = rng.choice(SIDES)
    for number in range(1, min(len(what.matches(scene)), FURTHEST_ORDINAL) + 1):
        form = Ordinal(what, number, side)
        if denote(form, scene) == frozenset({place}):
            return None if number == 1 and rng.random() < 0.6 else form
    return None


def _later(scene: Scene, place: int, rng: Random) -> Form | None:
    form = _ordinal(scene, place, rng)
    return form if isinstance(form, Ordinal) and form.number > 1 else None


def _anchored(scene: Scene, place: int, rng: Random) -> tuple[Description, Description] | None:
    """What the object is called, and a single other one."""
    others = [other for other in range(len(scene.things)) if other != place]
    anchor = unique_description(scene, rng.choice(others), rng)
    return None if anchor is None else (loose_description(scene, place, rng), anchor)


def _relation(scene: Scene, place: int, rng: Random) -> Form | None:
    found = _anchored(scene, place, rng)
    if found is None:
        return None
    what, anchor = found
    return Nearest(what, anchor) if rng.random() < 0.25 else Relation(what, rng.choice(DIRECTIONS), anchor)


def _nearest(scene: Scene, place: int, rng: Random) -> Form | None:
    found = _anchored(scene, place, rng)
    return None if found is None else Nearest(*found)


def _position(scene: Scene, place: int, rng: Random) -> Form | None:
    return InZone(loose_description(scene, place, rng), rng.choice(ZONES))


_MAKERS: dict[str, Callable[[Scene, int, Random], Form | None]] = {
    "attributes": _attributes,
    "extreme": _extreme,
    "ordinal": _ordinal,
    "relation": _relation,
    "position": _position,
    "nearest": _nearest,
    "later": _later,
}


def refer(scene: Scene, place: int, rng: Random, kinds: Mapping[str, float] = KIND_WEIGHTS) -> Expression | None:
    """An expression that means object ``place`` and nothing else, or None where no attempt gave one.

    ``kinds``: how often each kind is tried first; those it does not name are not tried.
    """
    weights = dict(kinds)
    while weights:
        kind = rng.choices(list(weights), list(weights.values()))[0]
        del weights[kind]
        for _ in range(1 if kind == "attributes" else 8):
            form = _MAKERS[kind](scene, place, rng)
            if form is not None and denote(form, scene) == frozenset({place}):
                return Expression(phrase(form, rng), form, (place,), kind)
    return None


def targets_wanted(scene: Scene) -> list[int]:
    """Objects that expressions should speak of: all, but in ``unseen`` only those of held-out pairs."""
    places = range(len(scene.things))
    return [place for place in places if scene.split != "unseen" or scene.things[place].pair in HELD_OUT]


def sentences_for(
    scene: Scene, place: int, rng: Random, kinds: Mapping[str, float] = KIND_WEIGHTS, most: int = 3
) -> list[Expression]:
    """Up to ``most`` different expressions for one object; ``kinds`` as in ``refer``."""
    found: dict[str, Expression] = {}
    for _ in range(most + 1):
        expression = refer(scene, place, rng, kinds)
        if expression is not None and len(found) < most:
            found.setdefault(expression.words, expression)
    return list(found.values())
