"""Many short questions about one picture that only its other objects answer: names for what an expression means.

A mask takes long to draw and teaches one bit of reasoning: which object was meant. A name takes three words, so a row
holds a dozen of them. Only expressions whose words leave the name open are asked.
"""

from __future__ import annotations

from random import Random

from ullava.data.shapes.forms import Extreme, Form, InZone, Nearest, Ordinal, Relation
from ullava.data.shapes.language import Expression, refer, targets_wanted
from ullava.data.shapes.questions import Question
from ullava.data.shapes.scene import Scene, Thing

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
    found: dict[str, tuple[Expression, Thing]] = {}
    for _ in range(3 * turns):
        if len(found) == turns:
            break
        place = rng.choice(wanted)
        expression = refer(scene, place, rng, NAMED_KINDS)
        if expression is not None and leaves_open(expression.form, scene):
            found.setdefault(expression.words, (expression, scene.things[place]))
    return [
        Question(f"Name {expression.words}.", f"{short_name(thing)}.", (short_name(thing),), expression.kind)
        for expression, thing in found.values()
    ]
