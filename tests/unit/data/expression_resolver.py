"""A second reading of expressions: words and objects in, the set of objects meant out. Shares nothing with the maker.

It has no margins: it takes the plain meaning of the words (the leftmost is the one whose center is leftmost). Where
expressions are unambiguous, plain meaning finds their targets. Colors are nearest prototypes in CIE Lab.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import cv2
import numpy as np

PROTOTYPES = {
    "black": [(15, 15, 15), (40, 38, 38)],
    "white": [(250, 250, 250), (225, 225, 222)],
    "gray": [(120, 120, 120), (150, 150, 150), (95, 95, 97), (185, 185, 185)],
    "red": [(200, 25, 30), (150, 20, 25), (230, 60, 60)],
    "orange": [(245, 130, 20), (225, 110, 40)],
    "brown": [(110, 70, 40), (80, 50, 30), (140, 100, 70), (70, 55, 45)],
    "yellow": [(240, 215, 30), (210, 185, 60)],
    "green": [(40, 140, 50), (90, 120, 60), (30, 75, 40), (120, 190, 90)],
    "blue": [(40, 70, 200), (60, 100, 160), (25, 35, 90), (100, 150, 220), (55, 85, 115)],
    "purple": [(130, 50, 170), (90, 60, 120)],
    "pink": [(240, 150, 180), (225, 100, 150), (200, 130, 150)],
}
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "both": 2}
ORDINALS = {"first": 0, "second": 1, "third": 2}
IRREGULAR = {"people": "person", "knives": "knife", "mice": "mouse", "sheep": "sheep"}
HAS_COLOR = 0.35


@dataclass
class Seen:
    """One object: class, box xyxy, mask bool [H, W] or None."""

    name: str
    box: tuple[float, float, float, float]
    mask: np.ndarray | None

    @property
    def x(self) -> float:
        return (self.box[0] + self.box[2]) / 2

    @property
    def y(self) -> float:
        return (self.box[1] + self.box[3]) / 2

    @property
    def area(self) -> float:
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1]) if self.mask is None else self.mask.sum()

    def color_share(self, image: np.ndarray, color: str) -> float:
        x0, y0, x1, y1 = self.box
        if self.mask is None:
            wide, high = (x1 - x0) / 4, (y1 - y0) / 4
            pixels = image[int(y0 + high) : int(y1 - high) + 1, int(x0 + wide) : int(x1 - wide) + 1].reshape(-1, 3)
        else:
            pixels = image[self.mask]
        names = [name for name, shades in PROTOTYPES.items() for _ in shades]
        shades = np.array([shade for shades in PROTOTYPES.values() for shade in shades], dtype=np.uint8)
        one, many = (
            cv2.cvtColor(part.reshape(-1, 1, 3).astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
            for part in (pixels[:: max(1, len(pixels) // 600)], shades)
        )
        nearest = np.linalg.norm(one[:, None] - many[None], axis=-1).argmin(axis=1)
        return float(np.mean([names[place] == color for place in nearest]))


class Resolver:
    """Reads expressions about one image, uint8 [H, W, 3]. ``classes``: every class name there can be."""

    def __init__(self, image: np.ndarray, objects: list[Seen], classes: list[str]) -> None:
        self.image = image
        self.objects = objects
        self.height, self.width = image.shape[:2]
        self.classes = sorted(classes, key=len, reverse=True)

    def resolve(self, words: str) -> set[int]:
        """Return the places of the objects meant. Raises ValueError for words that are none of the grammar's."""
        text = words
        count = None
        for start, pattern in (("all", r"^all (the )?"), ("both", r"^both ")):
            if re.match(pattern, text):
                count = NUMBERS.get(start)
                text = re.sub(pattern, "the ", text)
        found = re.match(r"^the (two|three|four|five|six|seven) ", text)
        if found:
            count = NUMBERS[found[1]]
            text = "the " + text[found.end() :]
        meant = self._phrase(text)
        if count is not None and len(meant) != count:
            raise ValueError(f"'{words}': {len(meant)} of them")
        return meant

    def _phrase(self, text: str) -> set[int]:
        halves = text.split(" and the ")
        if len(halves) == 2:
            return self._phrase(halves[0]) | self._phrase("the " + halves[1])
        for pattern, rule in (
            (r"^(.+?) (?:to the )?(left|right) of (the .+)$", self._aside),
            (r"^(.+?) (above|over|below|under) (the .+)$", self._aside),
            (r"^(.+?) (nearest to|closest to|next to) (the .+)$", self._near),
            (r"^(.+?) on the (left|right)(?: side)?$", self._zone),
            (r"^(.+?) at the (top|bottom)$", self._zone),
            (r"^(.+?) in the (middle|(?:top|bottom) (?:left|right) corner)$", self._zone),
            (r"^the (first|second|third) (.+) from the (left|right)$", self._ordinal),
            (r"^the (leftmost|rightmost|topmost|highest|bottommost|lowest|largest|biggest|smallest) (.+)$", self._end),
        ):
            found = re.match(pattern, text)
            if found:
                return rule(*found.groups())
        return set(self._noun(text))

    def _noun(self, text: str) -> list[int]:
        words = text.removeprefix("the ")
        color = next((color for color in PROTOTYPES if words.startswith(color + " ")), None)
        if color is not None and words not in self.classes:
            words = words.removeprefix(color + " ")
        else:
            color = None
        name = self._class(words)
        places = [place for place, thing in enumerate(self.objects) if thing.name == name]
        return [p for p in places if color is None or self.objects[p].color_share(self.image, color) >= HAS_COLOR]

    def _class(self, words: str) -> str:
        if words in self.classes:
            return words
        before, _, last = words.rpartition(" ")
        options = [IRREGULAR.get(last, ""), last.removesuffix("es"), last.removesuffix("s"), last[:-3] + "y"]
        for option in options:
            name = f"{before} {option}".strip()
            if name in self.classes:
                return name
        raise ValueError(f"no class is called '{words}'")

    def _one(self, text: str) -> Seen:
        places = self._noun(text)
        if len(places) != 1:
            raise ValueError(f"'{text}' is {len(places)} objects")
        return self.objects[places[0]]

    def _aside(self, noun: str, where: str, anchor_words: str) -> set[int]:
        anchor = self._one(anchor_words)
        tests = {
            "left": lambda thing: thing.x < anchor.x,
            "right": lambda thing: thing.x > anchor.x,
            "above": lambda thing: thing.y < anchor.y,
            "below": lambda thing: thing.y > anchor.y,
        }
        test = tests[{"over": "above", "under": "below"}.get(where, where)]
        return {p for p in self._noun(noun) if self.objects[p] is not anchor and test(self.objects[p])}

    def _near(self, noun: str, how: str, anchor_words: str) -> set[int]:
        anchor = self._one(anchor_words)
        others = [place for place in self._noun(noun) if self.objects[place] is not anchor]
        nearest = min(others, key=lambda p: np.hypot(self.objects[p].x - anchor.x, self.objects[p].y - anchor.y))
        if how == "next to":
            a, b = self.objects[nearest].box, anchor.box
            apart = max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3], 0)
            if apart > 0.05 * np.hypot(self.width, self.height):
                return set()
        return {nearest}

    def _zone(self, noun: str, zone: str) -> set[int]:
        def inside(thing: Seen) -> bool:
            x, y = thing.x / self.width, thing.y / self.height
            if zone == "middle":
                return abs(x - 0.5) < 0.19 and abs(y - 0.5) < 0.19
            tests = {"left": x < 0.45, "right": x > 0.55, "top": y < 0.45, "bottom": y > 0.55}
            return all(tests[word] for word in zone.removesuffix(" corner").split())

        return {place for place in self._noun(noun) if inside(self.objects[place])}

    def _ordinal(self, number: str, noun: str, side: str) -> set[int]:
        row = sorted(self._noun("the " + noun), key=lambda p: self.objects[p].x, reverse=side == "right")
        return {row[ORDINALS[number]]} if len(row) > ORDINALS[number] else set()

    def _end(self, rank: str, noun: str) -> set[int]:
        places = self._noun("the " + noun)
        keys = {
            "leftmost": lambda thing: thing.x,
            "rightmost": lambda thing: -thing.x,
            "topmost": lambda thing: thing.y,
            "highest": lambda thing: thing.y,
            "bottommost": lambda thing: -thing.y,
            "lowest": lambda thing: -thing.y,
            "largest": lambda thing: -thing.area,
            "biggest": lambda thing: -thing.area,
            "smallest": lambda thing: thing.area,
        }
        return {min(places, key=lambda place: keys[rank](self.objects[place]))} if places else set()
