"""How an answer speaks of grounded things, and how such an answer is read back.

One clause for each thing: ``Mask [SEG]; Location [LOC]; [tag]circle[/tag].`` (the fields and their order are those of
u-LLaVA's later data, spec/ullava.md 3.1).
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
        fields = [f"Mask {SEG}"] if region.mask is not None else []
        fields += [f"Location {LOC}"] if region.box_xyxy_px is not None else []
        if not fields:
            raise ValueError(f"region '{region.phrase}' has neither mask nor box")
        fields.append(f"{TAG_START}{region.phrase.lower()}{TAG_END}")
        clauses.append("; ".join(fields) + ".")
    return " ".join([*clauses, closing.strip()] if closing.strip() else clauses)


def no_target_answer(phrase: str) -> str:
    """The words for a thing that the picture does not show; there is no ``[SEG]`` in them."""
    return f"{NO_TARGET}: {phrase.strip()}."


def split_objects(text: str) -> list[ObjectSpan]:
    """Read an answer back: group ``[SEG]``, ``[LOC]`` and tag that follow each other into things.

    A field that the open thing has already begins the next one; a tag closes the thing. Tags without a grounding token
    before them name nothing that has a place and are left out.
    """
    objects: list[ObjectSpan] = []
    seg: int | None = None
    loc: int | None = None
    seen = {SEG: 0, LOC: 0}
    start = end = 0

    def close(phrase: str) -> None:
        if seg is not None or loc is not None:
            objects.append(ObjectSpan(phrase, (start, end), seg, loc))

    for match in _PIECE.finditer(text):
        token = match.group(0)
        if token not in seen:
            if seg is not None or loc is not None:
                end = match.end()
            close(match.group(1).strip())
            seg = loc = None
            continue
        if (seg if token == SEG else loc) is not None:
            close("")
            seg = loc = None
        if seg is None and loc is None:
            label = _LABEL_BEFORE.search(text[: match.start()])
            start = label.start() if label else match.start()
        end = match.end()
        if token == SEG:
            seg = seen[SEG]
        else:
            loc = seen[LOC]
        seen[token] += 1
    close("")
    return objects
