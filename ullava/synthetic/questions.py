"""Captions, questions about a scene, and small tasks without an image, each with what counts as right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from ullava.synthetic.forms import Description
from ullava.synthetic.language import describe, targets_wanted
from ullava.synthetic.plurals import absent_description
from ullava.synthetic.scene import LISTED_AT_MOST, Scene, Thing
from ullava.synthetic.vocabulary import COLOURS, NUMBER_WORDS, SHAPES, TEXTURES, plural, with_article


@dataclass(frozen=True, slots=True)
class Question:
    """One turn: what is asked, the answer as a sentence, every accepted short answer, and the kind of answer."""

    words: str
    answer: str
    accepted: tuple[str, ...]
    kind: str


S = TypeVar("S")
Asker = tuple[Callable[[S, Random], Question | None], float]
"""Asks about a scene, or finds nothing to ask; and the share of such questions."""


# ---------------------------------------------------------------- captions
def _named(thing: Thing, role: str, sized: bool) -> tuple[str, dict[str, Any]]:
    fact: dict[str, Any] = {"role": role, "colour": thing.colour, "shape": thing.shape}
    if sized:
        fact["size"] = thing.size
    what = Description(thing.colour, thing.shape, thing.size if sized else None)
    words = " ".join(word for word in (what.size, what.colour, what.shape) if word)
    return with_article(words), fact


def listed(words: Sequence[str]) -> str:
    """Join words as a sentence does: "a, b and c"."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _landmarks(scene: Scene) -> list[tuple[str, Thing]]:
    """The two objects that a caption of many names: the only large one, if so, then the ends of the row."""
    row = sorted(scene.things, key=lambda thing: thing.centre_px[0])
    large = [thing for thing in row if thing.size == "large"]
    if len(large) != 1:
        return [("leftmost", row[0]), ("rightmost", row[-1])]
    if row[0] is large[0]:
        return [("largest", large[0]), ("rightmost", row[-1])]
    return [("largest", large[0]), ("leftmost", row[0])]


def caption(scene: Scene) -> tuple[str, dict[str, Any]]:
    """A caption and its facts ``{"count", "objects": [{"role", "colour", "shape", "size"?}]}``.

    Up to three objects are listed from left to right; of more, the count and two landmarks are named.
    """
    count = len(scene.things)
    start = f"There are {NUMBER_WORDS[count]} shapes"
    if count <= LISTED_AT_MOST:
        row = sorted(scene.things, key=lambda thing: thing.centre_px[0])
        named = [_named(thing, "listed", sized=True) for thing in row]
        text = f"{start}: {listed([words for words, _ in named])}."
    else:
        marks = _landmarks(scene)
        named = [_named(thing, role, sized=role != "largest") for role, thing in marks]
        clauses = [f"the {role} is {words}" for (role, _), (words, _) in zip(marks, named, strict=True)]
        text = f"{start}. " + "; ".join(clauses).capitalize() + "."
    return text, {"count": count, "objects": [fact for _, fact in named]}


def named_in_full(thing: Thing) -> str:
    """Every word that fits ``thing``: "small striped red circle" (plain ones have no word for their texture)."""
    words = (thing.size, "" if thing.texture == "plain" else thing.texture, thing.colour, thing.shape)
    return " ".join(word for word in words if word)


def listing(scene: Scene) -> str:
    """Name every object in full, from left to right: "A small red circle, a large striped blue star."."""
    row = sorted(scene.things, key=lambda thing: thing.centre_px[0])
    return ", ".join(with_article(named_in_full(thing)) for thing in row).capitalize() + "."


# ---------------------------------------------------------------- questions about a scene
def yes_no(words: str, yes: bool, kind: str) -> Question:
    """A question whose answer is yes or no."""
    return Question(words, "Yes." if yes else "No.", ("yes",) if yes else ("no",), kind)


def open_question(words: str, answer: str, kind: str, also: tuple[str, ...] = ()) -> Question:
    """A question whose answer is one word; ``also`` is accepted too."""
    return Question(words, answer.capitalize() + ".", (answer, *also), kind)


def _count(scene: Scene, rng: Random) -> Question | None:
    draw = rng.random()
    thing = rng.choice(scene.things)
    if draw < 0.2:
        what = Description()
    elif draw < 0.5:
        what = Description(shape=thing.shape)
    elif draw < 0.75:
        what = Description(colour=thing.colour)
    elif draw < 0.82:
        what = Description(size=thing.size)
    else:
        what = Description(shape=rng.choice(SHAPES)) if rng.random() < 0.5 else Description(rng.choice(list(COLOURS)))
    number = len(what.matches(scene))
    noun = plural(what.shape or "shape")
    words = " ".join(word for word in (what.size, what.colour, noun) if word)
    also = (str(number), "none") if number == 0 else (str(number),)
    return open_question(f"How many {words} are there?", NUMBER_WORDS[number], "count", also)


def _unique(scene: Scene, rng: Random, named: tuple[str, ...]) -> tuple[Description, Thing] | None:
    """An object that the attributes ``named`` single out, or a part of them; in ``unseen`` a held-out one."""
    places = targets_wanted(scene)
    rng.shuffle(places)
    for place in places:
        thing = scene.things[place]
        keep = [name for name in named if rng.random() < 0.6] or [named[0]]
        for names in (keep, list(named)):
            what = Description(**{name: getattr(thing, name) for name in names})
            if what.texture != "plain" and what.matches(scene) == [place]:
                return what, thing
    return None


def _colour(scene: Scene, rng: Random) -> Question | None:
    found = _unique(scene, rng, ("shape", "size"))
    if found is None:
        return None
    return open_question(f"What colour is the {describe(found[0], rng)}?", found[1].colour, "colour")


def _shape(scene: Scene, rng: Random) -> Question | None:
    found = _unique(scene, rng, ("colour", "size"))
    if found is None:
        return None
    words = describe(found[0], rng).replace("shape", "object")
    return open_question(f"What shape is the {words}?", found[1].shape, "shape")


def _size(scene: Scene, rng: Random) -> Question | None:
    found = _unique(scene, rng, ("shape", "colour"))
    if found is None:
        return None
    what, thing = found
    also = ("big",) if thing.size == "large" else ("little",)
    return open_question(f"Is the {describe(what, rng)} large or small?", thing.size, "size", also)


def _texture(scene: Scene, rng: Random) -> Question | None:
    found = _unique(scene, rng, ("shape", "colour"))
    if found is None:
        return None
    what, thing = found
    if thing.texture == "plain" and rng.random() < 0.5:
        return None
    return open_question(f"Is the {describe(what, rng)} plain, striped or dotted?", thing.texture, "texture")


def _exists(scene: Scene, rng: Random) -> Question | None:
    """Yes and no equally often; in the "no" case a near miss."""
    yes = rng.random() < 0.5
    if yes:
        thing = scene.things[rng.choice(targets_wanted(scene))]
        what = Description(
            thing.colour if rng.random() < 0.85 else None,
            thing.shape,
            thing.size if rng.random() < 0.2 else None,
            thing.texture if thing.texture in TEXTURES[1:] and rng.random() < 0.15 else None,
        )
    else:
        absent = absent_description(scene, rng)
        if absent is None:
            return None
        what = absent
    return yes_no(f"Is there {with_article(describe(what, rng))}?", yes, "exists")


def _compare(scene: Scene, rng: Random) -> Question | None:
    """More of one shape (or colour) than of another: yes and no equally often, a tie is a no."""
    yes = rng.random() < 0.5
    by_shape = rng.random() < 0.6
    names = list(SHAPES) if by_shape else list(COLOURS)
    present = [thing.shape if by_shape else thing.colour for thing in scene.things]
    for _ in range(12):
        one = rng.choice(present) if rng.random() < 0.8 else rng.choice(names)
        other = rng.choice(present) if rng.random() < 0.7 else rng.choice(names)
        if one == other or (present.count(one) > present.count(other)) != yes:
            continue
        if by_shape:
            words = f"Are there more {plural(one)} than {plural(other)}?"
        else:
            words = f"Are there more {one} shapes than {other} shapes?"
        return yes_no(words, yes, "compare")
    return None


_ASKERS: dict[str, Callable[[Scene, Random], Question | None]] = {
    "count": _count,
    "colour": _colour,
    "shape": _shape,
    "exists": _exists,
    "compare": _compare,
    "size": _size,
    "texture": _texture,
}


def questions(scene: Scene, rng: Random, turns: int = 8) -> list[Question]:
    """``turns`` different questions about ``scene`` (fewer only where so many attempts fail)."""
    askers = {kind: (_ASKERS[kind], often) for kind, often in scene.world.asks.items()}
    return draw_questions(askers, scene, rng, turns)


# ---------------------------------------------------------------- what still and moving scenes share
def draw_questions(askers: Mapping[str, Asker[S]], scene: S, rng: Random, turns: int) -> list[Question]:
    """Draw up to ``turns`` questions with different words; ``askers``: kind -> (who asks, how often)."""
    found: dict[str, Question] = {}
    names, weights = list(askers), [weight for _, weight in askers.values()]
    for _ in range(8 * turns):
        if len(found) == turns:
            break
        asked = askers[rng.choices(names, weights)[0]][0](scene, rng)
        if asked is not None:
            found.setdefault(asked.words, asked)
    return list(found.values())


def conversation(name: str, asked: Sequence[Question], shown: Mapping[str, str]) -> dict[str, Any]:
    """LLaVA JSON. ``shown``: ``{"image": path}`` or ``{"video": path}``, or nothing."""
    turns: list[dict[str, str]] = []
    for number, question in enumerate(asked):
        marker = "" if number else "".join(f"<{kind}>" for kind in shown)
        turns.append({"from": "human", "value": marker + question.words})
        turns.append({"from": "gpt", "value": question.answer})
    return {"id": name, **shown, "conversations": turns}


def quiz(name: str, asked: Sequence[Question], shown: Mapping[str, str]) -> dict[str, Any]:
    """A conversation of questions that do not build on each other, with what counts as right."""
    return {
        **conversation(name, asked, shown),
        "accepted": [list(question.accepted) for question in asked],
        "answer_type": [question.kind for question in asked],
    }
