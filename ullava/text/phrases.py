"""Which words may go into questions and answers: names of classes, expressions, the turns of conversations.

A name that holds a special token would be one: ``cat [SEG]`` asks the mask head for a second mask, ``</s>`` ends the
answer, ``<image>`` wants another image. Such words are refused where they come in, before a model is trained on them.
"""

from __future__ import annotations

import re
import unicodedata

from ullava.text.tokens import (
    IMAGE_MARKER,
    IMAGE_PATCH,
    LOC,
    PAD,
    REGION_PATCH,
    RESERVED_TOKENS,
    SEG,
    VIDEO_MARKER,
    VIDEO_PATCH,
)

MAX_NAME = 200
MAX_EXPRESSION = 2000
"""Letters of a name and of an expression; longer ones are taken for a mistake in the file."""
_IN_ANSWERS = (SEG, LOC, IMAGE_PATCH, VIDEO_PATCH, REGION_PATCH)
_OURS = "|".join(re.escape(token) for token in (*RESERVED_TOKENS, IMAGE_MARKER, VIDEO_MARKER, PAD))
_OF_TOKENIZERS = r"</?s>|<unk>|<pad>|<bos>|<eos>|<\|[^|<>\s]{1,40}\|>|\[/?INST\]|<</?SYS>>"
# Names are written in small letters in answers, so [TAG] would become a token there.
_SPECIAL = re.compile(f"{_OURS}|{_OF_TOKENIZERS}", re.IGNORECASE)
_LINE_ENDS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")


def name_fault(text: str) -> str:
    """Return why ``text`` cannot be the name of a class or thing; '' where it can."""
    if "\t" in text:
        return "holds a tab"
    return _fault(text, MAX_NAME)


def expression_fault(text: str) -> str:
    """Return why ``text`` cannot be an expression, or an answer's reason; '' where it can."""
    return _fault(text, MAX_EXPRESSION)


def turn_fault(text: str, *, answer: bool) -> str:
    """Return why ``text`` cannot be a question or an answer of a conversation in words; '' where it can.

    Conversations may speak about anything, also about the signs of other tokenizers: only what no row can be made of
    is a fault. Markers of images and videos are the reader's to count.
    """
    token = next((token for token in (_IN_ANSWERS if answer else RESERVED_TOKENS) if token in text), "")
    return f"holds the special token {token}" if token else ""


def _fault(text: str, longest: int) -> str:
    if not any(character.isprintable() and not character.isspace() for character in text):
        return "is blank"
    if len(text) > longest:
        return f"has {len(text)} letters, more than {longest}"
    special = _SPECIAL.search(text)
    if special is not None:
        return f"holds the special token {special.group()}"
    for character in text:
        if character in _LINE_ENDS:
            return "holds a line break"
        kind = unicodedata.category(character)
        if kind == "Cs":
            return "holds half of a surrogate pair"
        if kind == "Cc" and character != "\t":
            return f"holds the control character U+{ord(character):04X}"
    return ""
