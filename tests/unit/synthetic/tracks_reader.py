"""A second, independent reading of clips with masks: what objects do is read from the masks alone, and the words as a
person would take them. It shares no code with ``ullava``.
"""

from __future__ import annotations

import re
from itertools import groupby

import numpy as np
from pycocotools import mask as coco_mask

DIRECTIONS = {(1, 0): "right", (-1, 0): "left", (0, 1): "down", (0, -1): "up"}
WHOLE = 0.97


def seen(code: list[dict | None]) -> dict[str, object]:
    """What the masks of an object show: ``ways`` one after the other, ``gone`` or ``hidden`` at some time, ``back``."""
    size = next(one["size"] for one in code if one)
    masks = [coco_mask.decode(one) if one else np.zeros(size, np.uint8) for one in code]
    areas = [int(mask.sum()) for mask in masks]
    whole = [number for number, area in enumerate(areas) if area >= WHOLE * areas[0]]
    middles = [np.argwhere(masks[number]).mean(axis=0) for number in whole]
    steps = []
    for before, after in zip(middles, middles[1:], strict=False):
        down, right = after - before
        if max(abs(down), abs(right)) > 0.4:
            steps.append((int(np.sign(right)), 0) if abs(right) > abs(down) else (0, int(np.sign(down))))
    moving = [
        number for number, (before, after) in enumerate(zip(masks, masks[1:], strict=False)) if (before != after).any()
    ]
    away = [number for number, area in enumerate(areas) if not area]
    back = bool(away) and areas[-1] > 0
    at_border = False
    if away and not back:
        ys, xs = np.nonzero(masks[away[0] - 1])
        at_border = bool(min(*ys, *xs) == 0 or ys.max() == size[0] - 1 or xs.max() == size[1] - 1)
    return {
        "ways": [DIRECTIONS[step] for step, _ in groupby(steps)],
        "hidden": bool(away) and not at_border,
        "gone": at_border,
        "back": back,
        "start": moving[0] if moving else None,
    }


def meant(words: str, objects: list[dict[str, object]]) -> list[int]:
    """The places of the objects, each with ``color``, ``shape`` and what ``seen`` tells, that the words mean."""
    if match := re.fullmatch(r"the shape that moves (first|last)", words):
        starts = {place: one["start"] for place, one in enumerate(objects) if one["start"] is not None}
        pick = min if match[1] == "first" else max
        return [place for place, start in starts.items() if start == pick(starts.values())]
    match = re.fullmatch(r"the (.+?)(?: that (.+))?", words)
    assert match
    named, said = match[1].split(), match[2] or ""
    return [place for place, one in enumerate(objects) if called(named, one) and does(said, one)]


def called(named: list[str], one: dict[str, object]) -> bool:
    """Whether every word of the name fits."""
    shapes = {"shape", "shapes", one["shape"], f"{one['shape']}s", f"{one['shape']}es"}
    return named[-1] in shapes and all(word == one["color"] for word in named[:-1])


def does(said: str, one: dict[str, object]) -> bool:
    """Whether an object does what is said, at some time of the clip."""
    said = re.sub(r"^(stays?|moves?|hides?|leaves?)", lambda found: found[1].rstrip("s"), said)
    ways = one["ways"]
    assert isinstance(ways, list)
    if said in ("", "move"):
        return not said or bool(ways)
    if said == "stay":
        return not ways
    if said == "hide":
        return bool(one["hidden"])
    if re.fullmatch("hide and comes? back", said):
        return bool(one["back"])
    if said == "leave the picture":
        return bool(one["gone"])
    first, _, second = said.removeprefix("move ").partition(" and then ")
    if second in DIRECTIONS.values():
        return ways == [first, second]
    if second.startswith("hide"):
        return first in ways and bool(one["hidden"]) and not one["back"]
    if second.startswith("leave"):
        return first in ways and bool(one["gone"])
    assert not second, said
    return first in ways
