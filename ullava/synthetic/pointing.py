"""Questions that point at things of a scene: what it is, its colour and shape, how it lies to another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from ullava.synthetic.questions import Question, open_question, yes_no
from ullava.synthetic.scene import END_GAP_PX, Scene
from ullava.synthetic.vocabulary import with_article
from ullava.text.tokens import REGION_MARKER

AT_MOST = 8
"""Questions about an image."""
LOOSE = 0.1
"""A box drawn by hand misses each side of a thing by up to this share of the thing's length."""


@dataclass(frozen=True, slots=True)
class PointedQuestion:
    """A question, and the ``places`` of the things that its ``<region>`` point at."""

    question: Question
    places: tuple[int, ...]


def pointed_questions(scene: Scene, rng: Random) -> list[PointedQuestion]:
    """Up to ``AT_MOST`` different questions, which point at every thing at least once where there is room."""
    places = list(range(len(scene.things)))
    rng.shuffle(places)
    each = [_about(scene, place, rng) for place in places]
    pairs = [found for _ in range(AT_MOST) if (found := _between(scene, rng)) is not None]
    more = [_about(scene, place, rng) for place in places]
    chosen = {(one.question.words, one.places): one for one in [*each, *pairs[:3], *more]}
    return list(chosen.values())[:AT_MOST]


def loose_box(box_xywh: Sequence[float], scene: Scene, rng: Random) -> list[float]:
    """A box [x1, y1, x2, y2] in pixels as a hand draws it around ``box_xywh``, within the image."""
    x, y, width, height = box_xywh
    miss = [rng.uniform(-LOOSE, LOOSE) for _ in range(4)]
    left, right = x + miss[0] * width, x + (1 + miss[1]) * width
    upper, lower = y + miss[2] * height, y + (1 + miss[3]) * height
    edges = (max(left, 0.0), max(upper, 0.0), min(right, float(scene.width)), min(lower, float(scene.height)))
    return [round(edge, 1) for edge in edges]


def _about(scene: Scene, place: int, rng: Random) -> PointedQuestion:
    """What one thing is, half of the time by its whole name."""
    thing, draw = scene.things[place], rng.random()
    if draw < 0.5:
        asked = open_question(f"What is {REGION_MARKER}?", with_article(" ".join(thing.pair)), "region name")
    elif draw < 0.75:
        asked = open_question(f"What colour is {REGION_MARKER}?", thing.colour, "region colour")
    else:
        asked = open_question(f"What shape is {REGION_MARKER}?", thing.shape, "region shape")
    return PointedQuestion(asked, (place,))


def _between(scene: Scene, rng: Random) -> PointedQuestion | None:
    """Two things that lie clearly apart one way; None where the drawn ones do not."""
    if len(scene.things) < 2:
        return None
    one, other = rng.sample(range(len(scene.things)), 2)
    axis, words = rng.choice(((0, "left of"), (1, "above")))
    gap = scene.things[other].centre_px[axis] - scene.things[one].centre_px[axis]
    if abs(gap) < END_GAP_PX:
        return None
    asked = yes_no(f"Is {REGION_MARKER} {words} {REGION_MARKER}?", gap > 0, f"region {words}")
    return PointedQuestion(asked, (one, other))
