"""Many short questions about one image that only its other objects answer: names for what an expression means.

A mask takes long to draw and teaches one bit of reasoning: which object was meant. A name takes three words, so a row
holds a dozen of them. Only expressions whose words leave the name open are asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random

from ullava.synthetic.forms import (
    SIDES,
    Description,
    Extreme,
    Form,
    InZone,
    Nearest,
    Ordinal,
    Relation,
    denote,
)
from ullava.synthetic.language import (
    FURTHEST_ORDINAL,
    Expression,
    loose_description,
    phrase,
    refer,
    targets_wanted,
    unique_description,
)
from ullava.synthetic.questions import Question
from ullava.synthetic.scene import Scene, Thing

NAMED_PER_IMAGE = 10
NAMED_KINDS: dict[str, float] = {
    "nearest": 0.45, "later": 0.2, "relation": 0.15, "extreme": 0.1, "ordinal": 0.05, "position": 0.05,
}  # fmt: skip
"""Shares of the kinds of expression; attributes say the name themselves."""


def short_name(thing: Thing) -> str:
    """Colour and shape, then what tells twins apart: "red star, small"."""
    return f"{thing.colour} {thing.shape}, {thing.size}"


def leaves_open(form: Form, scene: Scene) -> bool:
    """Whether the attributes in the words fit objects of different names, so that the rest of the words decides."""
    if not isinstance(form, Extreme | Ordinal | Relation | Nearest | InZone):
        return False
    return len({short_name(scene.things[place]) for place in form.what.matches(scene)}) > 1


def namings(scene: Scene, rng: Random, turns: int = NAMED_PER_IMAGE) -> list[Question]:
    """Up to ``turns`` different questions: "Name the star left of the ring." "red star, small."."""
    wanted = targets_wanted(scene)
    found = (refer(scene, rng.choice(wanted), rng, NAMED_KINDS) for _ in range(3 * turns))
    return _qa_pair(scene, (item for item in found if item is not None and leaves_open(item.form, scene)), turns)


def drills(scene: Scene, rng: Random) -> list[Question]:
    """Every neighbour and every rank of one image: "Name the shape nearest to the red star.", in any order.

    Asked of everything that can be an anchor, about any object and about some: where one expression in fourteen says
    "nearest to", a small model does not begin to learn it (models/tiny/README.md).
    """
    asked = _qa_pair(scene, _drill_expressions(scene, rng))
    rng.shuffle(asked)
    return asked


def _drill_expressions(scene: Scene, rng: Random) -> Iterator[Expression]:
    wanted = set(targets_wanted(scene))
    for kind, form in _drill_forms(scene, rng):
        targets = denote(form, scene)
        if targets is not None and len(targets) == 1 and leaves_open(form, scene) and targets <= wanted:
            yield Expression(phrase(form, rng), form, tuple(targets), kind)


def _drill_forms(scene: Scene, rng: Random) -> Iterator[tuple[str, Form]]:
    """Each kind twice: about any object, and about those that a description of one of them fits."""
    places = range(len(scene.things))
    for place in places:
        anchor = unique_description(scene, place, rng)
        if anchor is not None:
            yield "nearest", Nearest(Description(), anchor)
            yield "nearest", Nearest(loose_description(scene, rng.choice(places), rng), anchor)
    for side in SIDES:
        for what in (Description(), loose_description(scene, rng.choice(places), rng)):
            for number in range(2, FURTHEST_ORDINAL + 1):
                yield "later", Ordinal(what, number, side)


def _qa_pair(scene: Scene, expressions: Iterable[Expression], most: int | None = None) -> list[Question]:
    """Ask for the name of what each expression means, of those with the same words only the first; ``most`` of them."""
    asked: dict[str, Question] = {}
    for expression in expressions:
        name = short_name(scene.things[expression.targets[0]])
        question = Question(f"Name {expression.words}.", f"{name}.", (name,), expression.kind)
        asked.setdefault(expression.words, question)
        if len(asked) == most:
            break
    return list(asked.values())
