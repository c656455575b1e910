"""The tokens of captions as the COCO caption programs count them, so that BLEU and CIDEr-D are comparable.

Those programs run Stanford's PTBTokenizer (Java) with lower case and drop punctuation. The rules below give the same
tokens for captions in English; a test compares them where ``pycocoevalcap`` is installed. They leave out what captions
hardly hold: smileys, and the longer part of the original's list of abbreviations.
"""

from __future__ import annotations

import html
import re

_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "--", "—": "--", "…": "...", "£": "#", "€": "$"})
_ABBREVIATIONS = "mr|mrs|ms|dr|prof|jr|sr|st|ave|blvd|vs|etc|inc|ltd|corp|ph\\.d"
_TOKEN = re.compile(
    rf"""
      (?:https?://|www\.)\S+?(?=[.,;:!?)"']*(?:\s|$))     # addresses
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)+ | @\w+
    | \b(?:[^\W\d_]\.){{2,}}(?!\w) | \b(?:{_ABBREVIATIONS})\.(?!\w) | \bno\.(?=\s*\d) | \b[^\W\d_]\.(?!\w)
    | (?<!\w)'t(?=is\b|was\b) | (?<!\w)'\d\ds\b | (?<!\w)'n'(?!\w) | \bo'\w+ | \bma'am\b | \bd'you\b | \by'(?=all\b)
    | \b(?:can(?=not\b) | gon(?=na\b) | wan(?=na\b) | got(?=ta\b) | gim(?=me\b) | lem(?=me\b))
    | \w+?(?=n't\b) | n't\b | '(?:s|m|d|re|ve|ll)\b       # contractions
    | \d+(?:[.:]\d+)*(?=[ap]m\b)                          # 12:30 pm
    | [-+]?\d+(?:[.,:/]\d+)*(?:-\w+)*(?!\w)               # numbers
    | \w+(?:[-/&]\w+|\.[^\W\d_]\w*)*                      # words
    | [?!]{{2,}} | -+ | \.+ | \S
    """,
    re.VERBOSE,
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_DROPPED = re.compile(r"[\"'`.?!,:;]|-+|\.+|[^\w\s!-~\u00a1-\u00ff]+")


def caption_words(text: str) -> list[str]:
    """Return the tokens of a caption: lower case, ``don't`` as two, brackets by name, punctuation dropped."""
    plain = html.unescape(text).translate(_PLAIN).lower()
    return [_BRACKETS.get(token, token) for token in _TOKEN.findall(plain) if not _DROPPED.fullmatch(token)]
