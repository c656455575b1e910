"""Expressions for several objects and for none, as gRefCOCO has them."""

from __future__ import annotations

from random import Random

from ullava.synthetic.forms import (
    DIRECTIONS,
    RANKS,
    ZONES,
    Both,
    Description,
    Extreme,
    Form,
    InZone,
    Relation,
    Select,
    denote,
)
from ullava.synthetic.language import Expression, phrase, refer, targets_wanted, unique_description
from ullava.synthetic.scene import Scene
from ullava.synthetic.vocabulary import COLOURS, HELD_OUT_PAIRS, NUMBER_WORDS, SHAPES, SIZES, TEXTURES

SHARES: dict[str, float] = {"several": 0.45, "none": 0.40, "one": 0.15}
_ATTEMPTS = 12


def _shared_description(scene: Scene, rng: Random) -> Description:
    """A description of something in the scene, with few attributes so that several objects may share it."""
    thing = scene.things[rng.choice(targets_wanted(scene))]
    what = Description(
        colour=thing.colour if rng.random() < 0.45 else None,
        shape=thing.shape if rng.random() < 0.45 else None,
        size=thing.size if rng.random() < 0.25 else None,
        texture=thing.texture if thing.texture != "plain" and rng.random() < 0.2 else None,
    )
    return what


def several_words(form: Form, count: int, rng: Random) -> str:
    """Words for the ``count`` objects of a form: "all red stars", "the two stars", "both stars"."""
    if isinstance(form, Both):
        return phrase(form, rng)
    words = phrase(form, rng, many=True)
    start = ["all ", "all the ", f"the {NUMBER_WORDS[count]} ", "the "]
    if count == 2:
        start.append("both ")
    return rng.choice(start) + words.removeprefix("the ")


def several(scene: Scene, rng: Random) -> Expression | None:
    """An expression for two objects or more; in ``unseen`` at least one of them has a held-out pair."""
    wanted = set(targets_wanted(scene))
    for _ in range(_ATTEMPTS):
        draw = rng.random()
        form: Form
        if draw < 0.55:
            form = Select(_shared_description(scene, rng))
        elif draw < 0.7:
            anchor = unique_description(scene, rng.randrange(len(scene.things)), rng)
            if anchor is None:
                continue
            form = Relation(_shared_description(scene, rng), rng.choice(DIRECTIONS), anchor)
        elif draw < 0.8:
            form = InZone(_shared_description(scene, rng), rng.choice(ZONES))
        else:
            first, second = rng.sample(range(len(scene.things)), 2)
            one, two = unique_description(scene, first, rng), unique_description(scene, second, rng)
            if one is None or two is None:
                continue
            form = Both(one, two)
        targets = denote(form, scene)
        if targets is not None and len(targets) > 1 and targets & wanted:
            return Expression(several_words(form, len(targets), rng), form, tuple(sorted(targets)), "several")
    return None


def absent_description(scene: Scene, rng: Random) -> Description | None:
    """A description that fits nothing here though it nearly does; never a held-out pair outside ``unseen``.

    Half join a colour and a shape that are there, but not together; the rest change one attribute of something
    that is there. In ``unseen`` many name a held-out pair.
    """
    things = scene.things
    for _ in range(_ATTEMPTS):
        draw = rng.random()
        one, two = rng.choice(things), rng.choice(things)
        if scene.split == "unseen" and draw < 0.4:
            what = Description(*rng.choice(HELD_OUT_PAIRS))
        elif draw < 0.55:
            what = Description(one.colour, two.shape)
        elif draw < 0.72:
            size = SIZES[1 - SIZES.index(one.size)]
            what = Description(one.colour if rng.random() < 0.6 else None, one.shape, size)
        elif draw < 0.8:
            what = Description(one.colour, rng.choice(SHAPES))
        elif draw < 0.88:
            what = Description(rng.choice(list(COLOURS)), one.shape)
        elif draw < 0.92:
            what = Description(shape=rng.choice(SHAPES))
        elif draw < 0.95:
            what = Description(colour=rng.choice(list(COLOURS)))
        else:
            what = Description(one.colour if rng.random() < 0.5 else None, one.shape, None, rng.choice(TEXTURES[1:]))
        if scene.may_name(what.colour, what.shape) and not what.matches(scene):
            return what
    return None


def none(scene: Scene, rng: Random) -> Expression | None:
    """An expression that nothing in the scene answers to."""
    for _ in range(_ATTEMPTS):
        draw = rng.random()
        what = absent_description(scene, rng) if draw < 0.75 else _shared_description(scene, rng)
        if what is None:
            continue
        form: Form
        if draw < 0.65:
            form = Select(what)
        elif draw < 0.7:
            form = Extreme(what, rng.choice(RANKS[:4]))
        elif draw < 0.92:
            anchor = unique_description(scene, rng.randrange(len(scene.things)), rng)
            if anchor is None or (draw >= 0.75 and not _other_than_anchor(what, anchor, scene)):
                continue
            form = Relation(what, rng.choice(DIRECTIONS), anchor)
        else:
            form = InZone(what, rng.choice(ZONES))
        if denote(form, scene) == frozenset():
            many = not isinstance(form, Extreme) and rng.random() < 0.15
            words = phrase(form, rng, many)
            return Expression("all " + words.removeprefix("the ") if many else words, form, (), "none")
    return None


def _other_than_anchor(what: Description, anchor: Description, scene: Scene) -> bool:
    """Whether something that fits ``what`` is there besides the anchor, so that only the relation is wrong."""
    return bool(set(what.matches(scene)) - set(anchor.matches(scene)))


def generalized(scene: Scene, rng: Random) -> Expression | None:
    """An expression with several targets, none, or one, in the proportions of SHARES."""
    kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
    if kind == "several":
        return several(scene, rng)
    if kind == "none":
        return none(scene, rng)
    return refer(scene, rng.choice(targets_wanted(scene)), rng)
