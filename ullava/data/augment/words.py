"""Words of a mirrored image: "left" for "right", where it is certain that they speak of sides.

English only. "The right answer", "the pizza that is left over" and whatever is read off an image (letters, numbers,
clocks) do not turn with it: such a text cannot be turned, and its image stays as it is.
"""

from __future__ import annotations

import re

_OTHER = {"left": "right", "right": "left"}
_FAMILY = re.compile(r"\b(left|right)\w*", re.IGNORECASE)
_TURNS = re.compile(r"(left|right)(most|wards?|hand|handed)", re.IGNORECASE)
_ROW = re.compile(r"\b(?:left[ -]to[ -]right|right[ -]to[ -]left)\b", re.IGNORECASE)
_ORDINAL = re.compile(r"\b(?:first|second|third|fourth|fifth|sixth|last|next)\b", re.IGNORECASE)

_SIDE_BEFORE = re.compile(
    r"\b(?:the|a|his|her|its|their|my|your|our|far|upper|lower|top|bottom|front|back|center|middle|extreme|very|most|to|"
    r"on|at|from|towards?|facing|looking|turn|turning|turned|pointing|heading|leaning|first|second|third|fourth)[ -]$",
    re.IGNORECASE,
)
_SIDE_AFTER = re.compile(
    r"[ -](?:of|most|side|sides|hand|handed|corner|half|edge|end|part|third|portion|arm|leg|foot|eye|ear|wing|lane)\b",
    re.IGNORECASE,
)
_NEVER_BEFORE = re.compile(
    r"[ -](?:answer|way|track|things?|time|kind|place|order|size|amount|choice|angles?|triangle|now|away|over|field|"
    r"fielder|click|clicked)\b",
    re.IGNORECASE,
)
_NO_SIDE_AFTER = re.compile(
    r"[ -](?:alone|behind|out|open|unattended|next|there|here|before|after|beside|above|below|under|underneath|into|by|"
    r"in|on|at|with|for|to|up|down|as|when|where|if|because|standing|sitting|lying|about|the|an?|his|her|its|their|no)\b",
    re.IGNORECASE,
)
_NO_SIDE_BEFORE = re.compile(
    r"\b(?:has|have|had|get|gets|got|all|that's|it's|what's|just|who|which|that|he|she|they|it|ones?|pieces?|slices?|"
    r"nothing|much|many|any|some|few)[ -]$",
    re.IGNORECASE,
)
_STATE = re.compile(r"\b(?:is|are|was|were|be|been|being)[ -]$", re.IGNORECASE)
_NAMES_A_THING = re.compile(r"[ -]\w")
_REMAINS = re.compile(r"\bwhat(?:'s| is| was) left\b|,\s*right\b|^right,", re.IGNORECASE)
_READ_OFF = re.compile(
    r"\d|[\"“”]|\b(?:texts?|words?|letters?|lettering|reads|says|saying|spells?|written|writing|numbers?|digits?|logos?|"
    r"o'clock|what time|(?:counter|anti)?-?clockwise|east|west|eastern|western)\b",
    re.IGNORECASE,
)

_PLACE = re.compile(
    r"\d|\b(?:(?:left|right|top|bottom|upper|lower|middle|cent(?:er|re)|corner)(?:most)?|(?:left|right)-?hand|edge|side|"
    r"half|first|second|third|fourth|fifth|sixth|last|next|two|three|four|five|six|seven|eight|nine|ten|both|how many|"
    r"count|only|whole|entire|complete|"
    r"(?:large|small|tall|short|long|wide|tiny|big|near|close|far|high|low)(?:r|er|st|est)?|"
    r"bigger|biggest|further|furthest|farther|farthest|little|above|below|over|under|underneath|beneath|beside|behind|"
    r"between|back|front|background|foreground|(?<!one )by|around|among|against|with|without|away|towards?|facing|"
    r"other|another)\b",
    re.IGNORECASE,
)
"""Of quantities "all", "every" and "each" are missing: what a crop leaves of a class is all of it."""


def turned(text: str, row_kept: bool = False) -> str | None:
    """Return ``text`` as it is true of the mirrored image, or None where that is not certain.

    ``row_kept``: things stay listed from left to right, so these words ("find every dog, from left to right") stay.
    """
    if not text.isascii() and any(not letter.isascii() and letter.isalpha() for letter in text):
        return None
    if _READ_OFF.search(text):
        return None
    kept = [found.span() for found in _ROW.finditer(text)] if row_kept and not _ORDINAL.search(text) else []
    pieces, end = [], 0
    for found in _FAMILY.finditer(text):
        if any(first <= found.start() < last for first, last in kept):
            continue
        if not _is_side(text, found):
            return None
        pieces += [text[end : found.start()], _other(found[1])]
        end = found.end(1)
    return "".join(pieces) + text[end:]


def names_places(text: str) -> bool:
    """Whether ``text`` speaks of places, order, size, number or other things, which a crop may change."""
    row = _ROW.sub("", text) if not _ORDINAL.search(text) else text
    return _PLACE.search(row) is not None


def _is_side(text: str, found: re.Match[str]) -> bool:
    """Whether this word of the family of "left" and "right" means a side of the image, or of a thing in it."""
    if len(found[0]) > len(found[1]):
        return _TURNS.fullmatch(found[0]) is not None
    before, after = text[: found.start()], text[found.end() :]
    if _NEVER_BEFORE.match(after) or _REMAINS.search(text):
        return False
    if _ROW.search(text) or _SIDE_BEFORE.search(before) or _SIDE_AFTER.match(after):
        return True
    if _NO_SIDE_AFTER.match(after) or _NO_SIDE_BEFORE.search(before):
        return False
    return _NAMES_A_THING.match(after) is not None or not _STATE.search(before)


def _other(word: str) -> str:
    """The other side, in the same letters: "Left" -> "Right"."""
    other = _OTHER[word.lower()]
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other
