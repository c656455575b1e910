"""Names of the synthetic world: colours, shapes, sizes, textures, and the pairs that training never shows."""

from __future__ import annotations

from typing import Literal

VERSION = 3
"""Part of every seed and of ``world.json``: worlds of different versions differ in content."""

Split = Literal["train", "seen", "unseen"]
SPLITS: tuple[Split, ...] = ("train", "seen", "unseen")

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (218, 30, 34),
    "green": (34, 160, 48),
    "blue": (38, 72, 228),
    "yellow": (246, 222, 36),
    "purple": (146, 44, 190),
    "orange": (250, 132, 14),
    "cyan": (58, 212, 230),
    "white": (244, 244, 244),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond")
SIZES: tuple[str, ...] = ("small", "large")
TEXTURES: tuple[str, ...] = ("plain", "striped", "dotted")
PARTS: tuple[str, ...] = ("core", "rim")

MOTIONS: tuple[str, ...] = ("left", "right", "up", "down")
STILL = "still"
MOTION_WORDS: dict[str, str] = {**{word: word for word in MOTIONS}, "stays": STILL}
"""Word of a caption -> what an object of a moving scene does."""

HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        ("red", "square"),
        ("red", "diamond"),
        ("green", "heart"),
        ("blue", "star"),
        ("yellow", "circle"),
        ("purple", "diamond"),
        ("orange", "cross"),
        ("cyan", "triangle"),
        ("cyan", "star"),
        ("white", "ring"),
    }
)
"""(colour, shape) pairs kept for the ``unseen`` split: in ``train`` and ``seen`` neither drawn nor named."""

PAIRS: tuple[tuple[str, str], ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
KNOWN_PAIRS: tuple[tuple[str, str], ...] = tuple(pair for pair in PAIRS if pair not in HELD_OUT)
HELD_OUT_PAIRS: tuple[tuple[str, str], ...] = tuple(pair for pair in PAIRS if pair in HELD_OUT)

NUMBER_WORDS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ORDINAL_WORDS: tuple[str, ...] = ("first", "second", "third", "fourth", "fifth", "sixth")


def class_id(shape: str) -> int:
    """Value of ``shape`` in the label images: 1 to 8; 0 is background."""
    return SHAPES.index(shape) + 1


_PLURALS: dict[str, str] = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "foot": "feet",
    "tooth": "teeth", "goose": "geese", "knife": "knives", "leaf": "leaves", "shelf": "shelves", "loaf": "loaves",
    "wolf": "wolves", "sheep": "sheep", "deer": "deer", "fish": "fish", "broccoli": "broccoli", "bread": "bread",
}  # fmt: skip


def plural(noun: str) -> str:
    """``noun`` in the plural, of its last word: "wine glasses", "people", "bunnies"."""
    before, _, last = noun.rpartition(" ")
    if last in _PLURALS:
        many = _PLURALS[last]
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        many = last + "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        many = last[:-1] + "ies"
    else:
        many = last + "s"
    return f"{before} {many}".lstrip()


def with_article(words: str) -> str:
    """``words`` after "a" or "an"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
