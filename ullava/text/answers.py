"""How an answer speaks of grounded things, and how such an answer is read back.

One clause for each thing, its name first: ``[tag]red circle[/tag]: Mask [SEG]; Location [LOC].`` The state that points
then stands right behind the name, which had to be found in the question or in the image: training from scratch,
words of color reach the mask decoder only so (models/tiny/README.md). u-LLaVA's later data name the thing last
(arXiv 2311.05348, released data code); both orders are read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ullava.structures import Region
from ullava.text.tokens import LOC, SEG, TAG_END, TAG_START

ACKNOWLEDGEMENT = "Sure."
NO_TARGET = "No such object"

_PIECE = re.compile(rf"{re.escape(SEG)}|{re.escape(LOC)}|{re.escape(TAG_START)}(.*?){re.escape(TAG_END)}", re.DOTALL)
_FIELDS = rf"Mask {re.escape(SEG)}(?:; Location {re.escape(LOC)})?|Location {re.escape(LOC)}"
_CLAUSE = re.compile(rf"{re.escape(TAG_START)}(.*?){re.escape(TAG_END)}: ({_FIELDS})\.", re.DOTALL)
_LABEL_BEFORE = re.compile(r"(?:\b[A-Za-z]+\s*)$")


@dataclass(frozen=True, slots=True)
class ObjectSpan:
    """One grounded thing of an answer's text: ``span`` in characters; which ``[SEG]`` / ``[LOC]`` (0, 1, …) it owns."""

    phrase: str
    span: tuple[int, int]
    seg_ordinal: int | None
    loc_ordinal: int | None


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
    already begins the next one. Tags without a grounding token name nothing that has a place and are left out.
    """
    pieces = list(_PIECE.finditer(text))
    names_first = bool(pieces) and pieces[0].group(0) not in (SEG, LOC)
    objects: list[ObjectSpan] = []
    thing = _OpenThing()
    seen = {SEG: 0, LOC: 0}
    for match in pieces:
        token = match.group(0)
        if token in seen:
            if thing.has(token):
                objects += thing.close()
                thing = _OpenThing()
            thing.add(token, seen[token], text, match)
            seen[token] += 1
        elif names_first:
            objects += thing.close()
            thing = _OpenThing(match.group(1).strip(), match.start(), match.end())
        else:
            thing.phrase, thing.end = match.group(1).strip(), match.end()
            objects += thing.close()
            thing = _OpenThing()
    return objects + thing.close()


@dataclass(slots=True)
class _OpenThing:
    """A thing whose clause is still being read."""

    phrase: str = ""
    start: int | None = None
    end: int = 0
    seg: int | None = None
    loc: int | None = None

    def has(self, token: str) -> bool:
        return (self.seg if token == SEG else self.loc) is not None

    def add(self, token: str, ordinal: int, text: str, match: re.Match[str]) -> None:
        if self.start is None:
            label = _LABEL_BEFORE.search(text[: match.start()])
            self.start = label.start() if label else match.start()
        self.end = match.end()
        if token == SEG:
            self.seg = ordinal
        else:
            self.loc = ordinal

    def close(self) -> list[ObjectSpan]:
        if self.start is None or (self.seg is None and self.loc is None):
            return []
        return [ObjectSpan(self.phrase, (self.start, self.end), self.seg, self.loc)]
