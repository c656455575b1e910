"""How an answer speaks of grounded things, and how such an answer is read back.

One clause for each thing, its name first: ``[tag]red circle[/tag]: Mask [SEG]; Location [LOC].`` The state that points
then stands right behind the name, which had to be found in the question or in the image: training from scratch,
words of color reach the mask decoder only so (models/tiny/README.md). u-LLaVA's later data name the thing last
(arXiv 2311.05348, released data code); both orders are read.

A caption has its phrases marked where they stand, each followed by what it speaks of, one token for each object:
``[tag]two red circles[/tag][SEG][SEG] and [tag]a star[/tag][SEG].`` (docs/grounded_captions.md).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ullava.structures import Region
from ullava.text.tokens import LOC, SEG, TAG_END, TAG_START, plain_places

ACKNOWLEDGEMENT = "Sure."
NO_TARGET = "No such object"

_NAME = rf"((?:(?!{re.escape(TAG_START)}).)*?)"
"""A name holds no second opening mark: of several, the last one opens it."""
_PIECE = re.compile(rf"{re.escape(SEG)}|{re.escape(LOC)}|{re.escape(TAG_START)}{_NAME}{re.escape(TAG_END)}", re.DOTALL)
_FIELDS = rf"Mask {re.escape(SEG)}(?:; Location {re.escape(LOC)})?|Location {re.escape(LOC)}"
_CLAUSE = re.compile(rf"{re.escape(TAG_START)}(.*?){re.escape(TAG_END)}: ({_FIELDS})\.", re.DOTALL)
_LABEL_BEFORE = re.compile(r"(?:\b[A-Za-z]+\s*)$")


_BETWEEN = re.compile(r"[\s,;]*(?:and\b[\s,;]*)?(?:(?:Mask|Location):?\s*)?")
"""What may stand between two tokens of one phrase; other words begin something new."""


@dataclass(frozen=True, slots=True)
class ObjectSpan:
    """One grounded thing of an answer's text: ``span`` in characters; which ``[SEG]`` / ``[LOC]`` (0, 1, …) it owns.

    ``plain_span``: the characters of its name (of a nameless thing: of its span) in the words alone, which
    ``strip_grounding`` leaves. Things of one phrase have the same ``group``, counted from 0, and the same name and
    spans.
    """

    phrase: str
    span: tuple[int, int]
    seg_ordinal: int | None
    loc_ordinal: int | None
    plain_span: tuple[int, int] = (0, 0)
    group: int = 0


@dataclass(frozen=True, slots=True)
class CaptionPhrase:
    """Words of a caption, ``span`` in its characters, and the things that they speak of, in order."""

    span: tuple[int, int]
    regions: tuple[Region, ...]


def grounded_answer(regions: Sequence[Region], closing: str = "") -> str:
    """Write the answer that grounds ``regions`` in order; ``closing`` is a sentence of explanation.

    Raises ValueError for no regions (say that with ``no_target_answer``) and for a region with neither mask nor box.
    """
    if not regions:
        raise ValueError("an answer that grounds nothing is written by no_target_answer")
    clauses = [ACKNOWLEDGEMENT]
    for region in regions:
        fields = [f"Mask {SEG}"] if region.mask is not None or region.video_masks is not None else []
        fields += [f"Location {LOC}"] if region.box_xyxy_px is not None else []
        if not fields:
            raise ValueError(f"region '{region.phrase}' has neither mask nor box")
        clauses.append(f"{TAG_START}{region.phrase.lower()}{TAG_END}: {'; '.join(fields)}.")
    return " ".join([*clauses, closing.strip()] if closing.strip() else clauses)


def grounded_caption(caption: str, phrases: Sequence[CaptionPhrase]) -> str:
    """Write a caption with its phrases marked: a ``[SEG]`` behind each for every mask, a ``[LOC]`` for every bare box.

    Taken out again (``strip_grounding``), the marks leave the caption as it was. Raises ValueError for phrases that
    overlap, do not lie in the caption in order, or speak of nothing that has a mask or a box.
    """
    ends = [0, *(end for phrase in phrases for end in phrase.span), len(caption)]
    if any(before > after for before, after in pairwise(ends)):
        raise ValueError("the phrases of a caption stand in it one after the other and do not overlap")
    pieces: list[str] = []
    here = 0
    for phrase in phrases:
        start, end = phrase.span
        tokens = [SEG if region.mask is not None else LOC for region in phrase.regions]
        if not tokens or any(region.mask is None and region.box_xyxy_px is None for region in phrase.regions):
            raise ValueError(f"'{caption[start:end]}' speaks of nothing that has a mask or a box")
        pieces += [caption[here:start], TAG_START, caption[start:end], TAG_END, *tokens]
        here = end
    return "".join([*pieces, caption[here:]])


def name_last(answer: str) -> str:
    """Put every clause of ``grounded_answer`` in u-LLaVA's order: ``Mask: [SEG]; Location: [LOC]; [tag]cup[/tag].``"""
    return _CLAUSE.sub(_name_behind, answer)


def _name_behind(clause: re.Match[str]) -> str:
    fields = clause[2].replace(f"Mask {SEG}", f"Mask: {SEG}").replace(f"Location {LOC}", f"Location: {LOC}")
    return f"{fields}; {TAG_START}{clause[1]}{TAG_END}."


def no_target_answer(phrase: str) -> str:
    """The words for a thing that the image does not show; there is no ``[SEG]`` in them."""
    return f"{NO_TARGET}: {phrase.strip()}."


def split_objects(text: str) -> list[ObjectSpan]:
    """Read an answer back: group ``[SEG]``, ``[LOC]`` and tag that belong together into things.

    Where the first of all is a tag, tags open things, otherwise they close them. A field that the open thing has
    already begins the next one: a thing of the same phrase where hardly anything stands between the two (``_BETWEEN``),
    a nameless one otherwise. Tags without a grounding token name nothing that has a place and are left out.
    """
    pieces = list(_PIECE.finditer(text))
    names_first = bool(pieces) and pieces[0].group(0) not in (SEG, LOC)
    things: list[_Thing] = []
    thing: _Thing | None = None
    seen = {SEG: 0, LOC: 0}
    for match in pieces:
        token = match.group(0)
        if token in seen:
            if thing is None or thing.has(token):
                joined = thing is not None and _BETWEEN.fullmatch(text, thing.end, match.start()) is not None
                thing = _Thing(thing.phrase if thing is not None and joined else _Phrase(), match.end())
                things.append(thing)
            thing.add(token, seen[token], text, match)
            seen[token] += 1
        elif names_first:
            thing = _Thing(_Phrase(match.start()), match.end())
            thing.phrase.call(match)
            things.append(thing)
        elif thing is not None:
            thing.phrase.call(match)
            thing = None
    return _numbered([found for found in things if found.seg is not None or found.loc is not None], text)


def _numbered(things: Sequence[_Thing], text: str) -> list[ObjectSpan]:
    """Return things with their groups and their places in the plain words; a nameless one is a group of its own."""
    _, places = plain_places(text)
    groups: dict[int, int] = {}
    found = []
    for thing in things:
        phrase = thing.phrase
        group = groups.setdefault(id(phrase if phrase.name else thing), len(groups))
        span = (phrase.start or 0, phrase.end) if phrase.name else (thing.start or 0, thing.end)
        start, end = phrase.words if phrase.name else span
        plain = (bisect_left(places, start), bisect_left(places, end))
        found.append(ObjectSpan(phrase.name, span, thing.seg, thing.loc, plain, group))
    return found


@dataclass(slots=True)
class _Phrase:
    """What one thing or several are called, from the first character of their clause to the last."""

    start: int | None = None
    end: int = 0
    name: str = ""
    words: tuple[int, int] = (0, 0)

    def call(self, tag: re.Match[str]) -> None:
        """Take the name that stands in a tag."""
        said = tag.group(1)
        self.name, self.end = said.strip(), tag.end()
        begin = tag.start(1) + len(said) - len(said.lstrip())
        self.words = (begin, begin + len(self.name))


@dataclass(slots=True)
class _Thing:
    """A thing whose clause is still being read; ``end``: behind its last token so far, or behind its tag."""

    phrase: _Phrase = field(repr=False)
    end: int
    start: int | None = None
    seg: int | None = None
    loc: int | None = None

    def has(self, token: str) -> bool:
        return (self.seg if token == SEG else self.loc) is not None

    def add(self, token: str, ordinal: int, text: str, match: re.Match[str]) -> None:
        if self.start is None:
            label = _LABEL_BEFORE.search(text[: match.start()])
            self.start = label.start() if label else match.start()
        if self.phrase.start is None:
            self.phrase.start = self.start
        self.end = self.phrase.end = match.end()
        if token == SEG:
            self.seg = ordinal
        else:
            self.loc = ordinal
