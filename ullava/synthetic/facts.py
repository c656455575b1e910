"""Whether a caption of a drawn scene tells the truth.

A mention is a run of neighbouring attribute words with a colour or a shape in it: ``large blue star``. It is right if
an object of the facts has all the words of the mention (as far as the facts tell) and no other mention has taken it.
After a role word (``leftmost``, ``rightmost``, ``largest``) the next mention must be the object of that role; a role
that the facts do not give cannot be confirmed and is wrong. Every number in the caption must be the number of objects.
In scenes that move, ``left``, ``right``, ``up``, ``down`` and ``stays`` speak of the mention before them.

A caption is right if all its mentions and numbers are, and it has at least one; it is complete if it also names the
number and every object of the facts. Other words are not checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ullava.synthetic.vocabulary import COLOURS, MOTION_WORDS, SHAPES, SIZES, TEXTURES
from ullava.text.normalization import NUMBER_WORDS, words

ROLES = ("leftmost", "rightmost", "largest")
LONGEST_NUMBER = 9
"""Digits of a number that a caption may mean; a model that repeats itself writes thousands."""

_ATTRIBUTE_OF: dict[str, str] = {
    **dict.fromkeys(COLOURS, "colour"),
    **dict.fromkeys(SHAPES, "shape"),
    **dict.fromkeys(SIZES, "size"),
    **dict.fromkeys(TEXTURES, "texture"),
}


@dataclass(frozen=True, slots=True)
class FactCheck:
    """``right``: nothing that the caption names is wrong; ``complete``: and it names all that the facts hold."""

    right: bool
    complete: bool


@dataclass(slots=True)
class _Mention:
    role: str | None
    attributes: dict[str, str]

    def fits(self, thing: Mapping[str, Any]) -> bool:
        """Whether ``thing`` has every attribute that the mention names, as far as the facts say."""
        if self.role is not None and thing.get("role") != self.role:
            return False
        return all(thing.get(name, word) == word for name, word in self.attributes.items())


def check_facts(caption: str, facts: Mapping[str, Any]) -> FactCheck:
    """Check a caption against ``{"count": int, "objects": [{"role", "colour", "shape", "size"?, "motion"?}]}``.

    Raises ValueError for facts of another form.
    """
    if not isinstance(facts.get("count"), int) or not isinstance(facts.get("objects"), list):
        raise ValueError(f"facts need 'count' and 'objects', these have {sorted(facts)}")
    numbers, mentions = _read(caption)
    things = list(facts["objects"])
    taken: set[int] = set()
    right = bool(numbers or mentions) and all(number == facts["count"] for number in numbers)
    told = all("motion" in mention.attributes for mention in mentions) or not any("motion" in t for t in things)
    # Narrow mentions choose first, so that a wide one does not take the only object that fits a narrow one.
    for mention in sorted(mentions, key=lambda mention: -len(mention.attributes) - (mention.role is not None)):
        place = next((n for n, thing in enumerate(things) if n not in taken and mention.fits(thing)), None)
        if place is None:
            right = False
        else:
            taken.add(place)
    return FactCheck(right, right and told and bool(numbers) and len(taken) == len(things))


def _read(caption: str) -> tuple[list[int], list[_Mention]]:
    """Return the numbers and the mentions of a caption, in order."""
    numbers: list[int] = []
    mentions: list[_Mention] = []
    role: str | None = None
    run: dict[str, str] = {}
    for word in [*words(caption), ""]:
        kind = _ATTRIBUTE_OF.get(word)
        if kind is not None and kind not in run:
            run[kind] = word
            continue
        if "colour" in run or "shape" in run:
            mentions.append(_Mention(role, run))
            role = None
        run = {} if kind is None else {kind: word}
        if word in ROLES:
            role = word
        elif word in MOTION_WORDS and mentions:
            mentions[-1].attributes.setdefault("motion", MOTION_WORDS[word])
        elif word in NUMBER_WORDS or (word.isdecimal() and len(word) <= LONGEST_NUMBER):
            numbers.append(int(NUMBER_WORDS.get(word, word)))
    return numbers, mentions
