"""When two spellings are the name of one class."""

from __future__ import annotations

import unicodedata


def class_key(name: str) -> str:
    """Return what two spellings of one class share: upper and lower case and the amount of white space do not count.

    Answers speak of things in lower case, so 'Cup' and 'cup' would be two truths for one question.
    """
    return " ".join(unicodedata.normalize("NFC", name).split()).casefold()
