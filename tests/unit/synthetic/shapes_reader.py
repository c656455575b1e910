"""A second, independent reading of the synthetic world's words, straight from the text and the boxes in scenes.jsonl.

It shares no code with ``ullava.data.shapes``: what the generator says must be true when read as a person would.
"""

from __future__ import annotations

import math
import re
from typing import Any

Thing = dict[str, Any]
Scene = dict[str, Any]

COLOURS = "red green blue yellow purple orange cyan white".split()
SHAPES = "circle square triangle star cross ring heart diamond".split()
NUMBERS = "zero one two three four five six".split()
ORDINALS = "first second third fourth fifth sixth".split()
SIZES = {"small": "small", "little": "small", "large": "large", "big": "large"}
SUPERLATIVES = {
    "leftmost": (0, 1),
    "rightmost": (0, -1),
    "topmost": (1, 1),
    "highest": (1, 1),
    "bottommost": (1, -1),
    "lowest": (1, -1),
}
RELATIONS = r" (?:to the )?(left|right) of the | (above|over|below|under) the "


def centre(thing: Thing) -> tuple[float, float]:
    x, y, w, h = thing["bbox"]
    return x + w / 2, y + h / 2


def singular(noun: str) -> str:
    if noun in ("crosses", "cross"):
        return "cross"
    return noun.removesuffix("s")


def fitting(words: str, things: list[Thing]) -> list[Thing]:
    """Objects that fit "small striped red circle with a blue core"."""
    words, _, core = words.partition(" with ")
    found = list(things)
    if core:
        colour = re.fullmatch(r"an? (?:(\w+) )?core", core)
        assert colour, core
        found = [t for t in found if t["core"] and colour[1] in (None, t["core"])]
    *adjectives, noun = words.split()
    for word in adjectives:
        key = "size" if word in SIZES else "colour" if word in COLOURS else "texture"
        assert key != "texture" or word in ("plain", "striped", "dotted"), words
        found = [t for t in found if t[key] == SIZES.get(word, word)]
    noun = singular(noun)
    assert noun in (*SHAPES, "shape", "object"), words
    return found if noun in ("shape", "object") else [t for t in found if t["shape"] == noun]


def only(words: str, things: list[Thing]) -> Thing:
    found = fitting(words, things)
    assert len(found) == 1, f"'{words}' fits {len(found)} objects"
    return found[0]


def in_zone(thing: Thing, zone: str, scene: Scene) -> bool:
    x, y = centre(thing)[0] / scene["width"], centre(thing)[1] / scene["height"]
    if zone == "middle":
        return abs(x - 0.5) < 0.19 and abs(y - 0.5) < 0.19
    rules = {"left": x < 0.47, "right": x > 0.53, "top": y < 0.47, "bottom": y > 0.53}
    return all(rules[word] for word in zone.split())


def meant(words: str, scene: Scene) -> list[int]:
    """Places of the objects that an expression speaks of, by reading its words."""
    things = scene["objects"]
    words = re.sub(r"^(?:all the|all|both|the (?:two|three|four|five|six)|the) ", "", words)
    found = _meant(words, scene, things)
    return [place for place, thing in enumerate(things) if any(thing is other for other in found)]


def _meant(words: str, scene: Scene, things: list[Thing]) -> list[Thing]:
    if " and the " in words:
        return [only(part, things) for part in words.split(" and the ")]
    if match := re.fullmatch(r"(\w+) (.*) from the (left|right|top|bottom)", words):
        axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[match[3]]
        row = sorted(fitting(match[2], things), key=lambda t: sign * centre(t)[axis])
        return [row[ORDINALS.index(match[1])]]
    first, _, rest = words.partition(" ")
    if first in SUPERLATIVES:
        axis, sign = SUPERLATIVES[first]
        return sorted(fitting(rest, things), key=lambda t: sign * centre(t)[axis])[:1]
    if first in ("largest", "biggest", "smallest"):
        row = sorted(fitting(rest, things), key=lambda t: t["diameter"])
        return row[:1] if first == "smallest" else row[-1:]
    if match := re.fullmatch(r"(.*) (?:nearest|closest) to the (.*)", words):
        anchor = only(match[2], things)
        others = [t for t in fitting(match[1], things) if t is not anchor]
        return sorted(others, key=lambda t: math.dist(centre(t), centre(anchor)))[:1]
    if match := re.search(RELATIONS, words):
        anchor = only(words[match.end() :], things)
        others = [t for t in fitting(words[: match.start()], things) if t is not anchor]
        (ax, ay), way = centre(anchor), match[1] or match[2]
        return [t for t in others if _stands(way, centre(t)[0] - ax, centre(t)[1] - ay)]
    if match := re.fullmatch(r"(.*) (?:in the|on the|at the) (.*?)(?: side| corner)?", words):
        return [t for t in fitting(match[1], things) if in_zone(t, match[2], scene)]
    return fitting(words, things)


def _stands(way: str, dx: float, dy: float) -> bool:
    return {"left": dx < -5, "right": dx > 5}.get(way, dy < -5 if way in ("above", "over") else dy > 5)


def answer(question: str, scene: Scene) -> str:
    """The answer to a question about the scene, worked out from its words."""
    things = scene["objects"]
    if match := re.fullmatch(r"How many (.*) are there\?", question):
        return NUMBERS[len(fitting(match[1], things))]
    if match := re.fullmatch(r"What colour is the (.*)\?", question):
        return str(only(match[1], things)["colour"])
    if match := re.fullmatch(r"What shape is the (.*)\?", question):
        return str(only(match[1], things)["shape"])
    if match := re.fullmatch(r"Is the (.*) large or small\?", question):
        return str(only(match[1], things)["size"])
    if match := re.fullmatch(r"Is the (.*) plain, striped or dotted\?", question):
        return str(only(match[1], things)["texture"])
    if match := re.fullmatch(r"Is there an? (.*)\?", question):
        return "yes" if fitting(match[1], things) else "no"
    match = re.fullmatch(r"Are there more (.*) than (.*)\?", question)
    assert match, question
    return "yes" if len(fitting(match[1], things)) > len(fitting(match[2], things)) else "no"
