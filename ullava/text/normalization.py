"""How answers in words are read: the words that facts are looked for in, and the normal form of short answers."""

from __future__ import annotations

import re

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_ARTICLES = frozenset({"a", "an", "the"})
NUMBER_WORDS: dict[str, int] = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty".split()
    )
}


def words(text: str) -> list[str]:
    """Return the words of a text: lower case, runs of ASCII letters and digits, with an inner apostrophe kept.

    Everything else separates words and is dropped. BLEU and CIDEr have their own tokens (``caption_words``).
    """
    return _WORD.findall(text.lower())


def content_words(text: str) -> list[str]:
    """Return the words of a text without articles, all of them where there is nothing else."""
    found = words(text)
    return [word for word in found if word not in _ARTICLES] or found


def normal_answer(text: str) -> str:
    """Return a short answer in its normal form.

    Lower case; punctuation dropped, but a sign and a point that belong to a number stay; articles dropped unless there
    is nothing else (the choice ``A.``); number words up to twenty as digits; single spaces. ``The two.`` becomes ``2``.
    """
    found = re.findall(r"-?\d+(?:\.\d+)?|[^\W\d_]+(?:'[^\W\d_]+)?", text.lower().replace("’", "'"))
    kept = [word for word in found if word not in _ARTICLES] or found
    return " ".join(str(NUMBER_WORDS.get(word, word)) for word in kept)
