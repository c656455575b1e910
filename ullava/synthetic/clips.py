"""Captions and questions about moving scenes, each with what counts as right, and the records that hold them."""

from __future__ import annotations

from random import Random
from typing import Any

from ullava.synthetic.motion import Mover, MovingScene
from ullava.synthetic.questions import (
    Asker,
    Question,
    conversation,
    draw_questions,
    listed,
    open_question,
    quiz,
)
from ullava.synthetic.scene import rng_of
from ullava.synthetic.vocabulary import HELD_OUT, MOTIONS, NUMBER_WORDS, STILL, with_article

QUESTIONS_PER_CLIP = 4
Record = dict[str, Any]

_CAPTION_QUESTIONS = ("Describe the video.", "What happens in the video?", "Caption this clip.")
_ALSO = {"up": ("upwards", "upward"), "down": ("downwards", "downward")}


def clip_path(scene: MovingScene) -> str:
    """Where the clip lies, relative to the world."""
    return f"videos/{scene.index:06d}.gif"


def clip_caption(scene: MovingScene) -> tuple[str, Record]:
    """A caption, and its facts ``{"count", "objects": [{"role", "colour", "shape", "motion"}]}`` from left to right."""
    words = [
        f"{with_article(_named(mover))} that {'stays' if mover.motion == STILL else f'moves {mover.motion}'}"
        for mover in scene.movers
    ]
    count = len(words)
    start = "There is one shape" if count == 1 else f"There are {NUMBER_WORDS[count]} shapes"
    objects = [
        {"role": "listed", "colour": mover.thing.colour, "shape": mover.thing.shape, "motion": mover.motion}
        for mover in scene.movers
    ]
    return f"{start}: {listed(words)}.", {"count": count, "objects": objects}


def clip_questions(scene: MovingScene, rng: Random, turns: int = QUESTIONS_PER_CLIP) -> list[Question]:
    """Up to ``turns`` different questions; those of ``unseen`` that name an object name one of a held-out pair."""
    return draw_questions(_ASKERS, scene, rng, turns)


def clip_records(scene: MovingScene) -> dict[str, list[Record]]:
    """The records of one clip by annotation file: LLaVA JSON with a ``video``, and the truth."""
    rng = rng_of(scene.split, scene.seed, scene.index, "clip words")
    words, facts = clip_caption(scene)
    asked = clip_questions(scene, rng)
    shown, number = {"video": clip_path(scene)}, f"{scene.index:06d}"
    turn = Question(rng.choice(_CAPTION_QUESTIONS), words, (), "caption")
    caption = conversation(f"video_caption_{number}", [turn], shown)
    answers = quiz(f"video_qa_{number}", asked, shown)
    return {"video_caption": [{**caption, "facts": facts}], "video_qa": [answers], "clips": [_truth(scene)]}


# ---------------------------------------------------------------- words
def _named(mover: Mover) -> str:
    return f"{mover.thing.colour} {mover.thing.shape}"


def _referred(mover: Mover, rng: Random) -> str:
    """Words that single it out: no two objects of a clip share a colour or a shape."""
    draw = rng.random()
    if draw < 0.5:
        return _named(mover)
    return mover.thing.shape if draw < 0.8 else f"{mover.thing.colour} shape"


def _wanted(scene: MovingScene) -> list[Mover]:
    """Objects that questions should speak of: all, but in ``unseen`` only those of held-out pairs."""
    return [mover for mover in scene.movers if scene.split != "unseen" or mover.thing.pair in HELD_OUT]


def _one_way(scene: MovingScene, rng: Random) -> tuple[str, Mover] | None:
    """Words for the only object that does something: "moves left", or "moves" where nothing else moves."""
    movers = [mover for mover in scene.movers if mover.motion != STILL]
    options = [
        (f"moves {mover.motion}", mover)
        for mover in movers
        if [other.motion for other in movers].count(mover.motion) == 1
    ]
    if len(movers) == 1:
        options.append(("moves", movers[0]))
    wanted = [option for option in options if option[1] in _wanted(scene)]
    return rng.choice(wanted) if wanted else None


def _direction(scene: MovingScene, rng: Random) -> Question | None:
    movers = [mover for mover in _wanted(scene) if mover.motion != STILL]
    if not movers:
        return None
    mover = rng.choice(movers)
    also = _ALSO.get(mover.motion, (f"to the {mover.motion}",))
    return open_question(f"Which way does the {_referred(mover, rng)} move?", mover.motion, "direction", also)


def _colour(scene: MovingScene, rng: Random) -> Question | None:
    found = _one_way(scene, rng)
    return (
        None
        if found is None
        else open_question(f"What colour is the shape that {found[0]}?", found[1].thing.colour, "colour")
    )


def _shape(scene: MovingScene, rng: Random) -> Question | None:
    found = _one_way(scene, rng)
    return (
        None
        if found is None
        else open_question(f"What shape is the object that {found[0]}?", found[1].thing.shape, "shape")
    )


def _moves(scene: MovingScene, rng: Random) -> Question | None:
    """Whether something moves that way: yes and no equally often."""
    movers = _wanted(scene)
    if not movers:
        return None
    mover, yes = rng.choice(movers), rng.random() < 0.5
    way = mover.motion if yes else rng.choice([way for way in MOTIONS if way != mover.motion])
    if way == STILL:
        return None
    answer = "yes" if yes else "no"
    return Question(f"Does the {_referred(mover, rng)} move {way}?", answer.capitalize() + ".", (answer,), "moves")


def _count(scene: MovingScene, rng: Random) -> Question | None:
    number = sum(mover.motion != STILL for mover in scene.movers)
    return open_question("How many shapes move?", NUMBER_WORDS[number], "count", (str(number),))


_ASKERS: dict[str, Asker[MovingScene]] = {
    "direction": (_direction, 0.34),
    "colour": (_colour, 0.22),
    "shape": (_shape, 0.22),
    "moves": (_moves, 0.14),
    "count": (_count, 0.08),
}


# ---------------------------------------------------------------- records
def _truth(scene: MovingScene) -> Record:
    """Everything about the clip, for reports and for checking."""
    things = [
        {
            "colour": mover.thing.colour,
            "shape": mover.thing.shape,
            "texture": mover.thing.texture,
            "diameter": round(mover.thing.diameter_px, 2),
            "start": [round(value, 2) for value in mover.thing.centre_px],
            "end": [round(value, 2) for value in mover.at(scene.length - 1, scene.length).centre_px],
            "motion": mover.motion,
        }
        for mover in scene.movers
    ]
    size = {"height": scene.height, "width": scene.width, "frames": scene.length}
    return {"index": scene.index, "video": clip_path(scene), **size, "objects": things}
