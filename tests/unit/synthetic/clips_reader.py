"""A second, independent reading of moving scenes: from the pixels of a GIF and the words of a question.

It shares no code with ``ullava``: shapes are found by their colours in the decoded frames and followed from the first
to the last; questions are read as a person would.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

RGB = {
    "red": (218, 30, 34),
    "green": (34, 160, 48),
    "blue": (38, 72, 228),
    "yellow": (246, 222, 36),
    "purple": (146, 44, 190),
    "orange": (250, 132, 14),
    "cyan": (58, 212, 230),
    "white": (244, 244, 244),
}
NUMBERS = "none one two three".split()
NEAR = 40.0
LEAST_PIXELS = 25


def frames_of(path: Path) -> np.ndarray:
    """All frames [T, H, W, 3] as Pillow shows them."""
    with Image.open(path) as film:
        frames = []
        for number in range(film.n_frames):
            film.seek(number)
            frames.append(np.asarray(film.convert("RGB")))
    return np.stack(frames).astype(np.float64)


def middles(frame: np.ndarray) -> dict[str, tuple[float, float]]:
    """Mean (x, y) of the pixels of each colour that covers enough of a frame [H, W, 3]."""
    names = list(RGB)
    distance = np.linalg.norm(frame[..., None, :] - np.array([RGB[name] for name in names]), axis=-1)
    nearest = np.where(distance.min(axis=-1) < NEAR, distance.argmin(axis=-1), -1)
    found = {}
    for number, name in enumerate(names):
        y, x = np.nonzero(nearest == number)
        if len(x) >= LEAST_PIXELS:
            found[name] = (float(np.median(x)), float(np.median(y)))
    return found


def motions(path: Path) -> dict[str, str]:
    """What each colour of a clip does between the first and the last frame: left, right, up, down or still."""
    frames = frames_of(path)
    first, last = middles(frames[0]), middles(frames[-1])
    found = {}
    for colour in first.keys() & last.keys():
        dx, dy = (after - before for before, after in zip(first[colour], last[colour], strict=True))
        if max(abs(dx), abs(dy)) < 8:
            found[colour] = "still"
        elif abs(dx) > abs(dy):
            found[colour] = "right" if dx > 0 else "left"
        else:
            found[colour] = "down" if dy > 0 else "up"
    return found


def answer(question: str, things: list[tuple[str, str, str]]) -> str:
    """The answer to a question about things (colour, shape, motion), worked out from its words."""

    def named(words: str) -> tuple[str, str, str]:
        wanted = set(words.split()) - {"shape", "object"}
        (thing,) = [thing for thing in things if wanted <= set(thing[:2])]
        return thing

    def doing(words: str) -> tuple[str, str, str]:
        way = words.removeprefix("moves").strip()
        (thing,) = [thing for thing in things if thing[2] == way or (not way and thing[2] != "still")]
        return thing

    if match := re.fullmatch(r"Which way does the (.*) move\?", question):
        return named(match[1])[2]
    if match := re.fullmatch(r"What colour is the shape that (.*)\?", question):
        return doing(match[1])[0]
    if match := re.fullmatch(r"What shape is the object that (.*)\?", question):
        return doing(match[1])[1]
    if match := re.fullmatch(r"Does the (.*) move (left|right|up|down)\?", question):
        return "yes" if named(match[1])[2] == match[2] else "no"
    assert question == "How many shapes move?", question
    return NUMBERS[sum(thing[2] != "still" for thing in things)]


def read_caption(caption: str) -> list[tuple[str, str, str]]:
    """(colour, shape, motion) of everything that a caption names, in its order."""
    start, _, listing = caption.rstrip(".").partition(": ")
    found = [
        (match[1], match[2], match[3] or "still")
        for match in re.finditer(r"an? (\w+) (\w+) that (?:stays|moves (\w+))", listing)
    ]
    count = re.fullmatch(r"There (?:is|are) (\w+) shapes?", start)
    assert count and NUMBERS.index(count[1]) == len(found), caption
    return found
