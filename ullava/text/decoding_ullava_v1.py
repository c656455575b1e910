"""Ids -> text as the library of u-LLaVA's first release wrote it, with its stray blanks (``text.as_released``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ullava.text.released_tokenizer import BOS, END, UNKNOWN


def decode_released(tokenizer: Any, ids: Sequence[int], *, keep_special: bool = True) -> str:
    """Ids -> text with the blanks that the original's library put in: around every added token, none after ``</s>``.

    ``keep_special=False`` leaves out ``<s>``, ``</s>`` and ``<unk>``; added tokens stay.
    """
    always = {BOS, END, UNKNOWN}
    tokens = [token for token in tokenizer.convert_ids_to_tokens(list(ids)) if keep_special or token not in always]
    added = set(tokenizer.get_added_vocab()) - always
    stretches: list[str] = []
    current: list[str] = []
    for token in tokens:
        if token not in added:
            current.append(token)
            continue
        if current:
            stretches.append(_join(tokenizer, current, always))
            current = []
        stretches.append(token)
    if current:
        stretches.append(_join(tokenizer, current, always))
    return " ".join(stretches)


def _join(tokenizer: Any, tokens: Sequence[str], special: set[str]) -> str:
    text, pending, before_special = "", [], False
    for place, token in enumerate(tokens):
        if token not in special:
            pending.append(token)
            before_special = False
            continue
        text += (" " if place and not before_special else "") + _words(tokenizer, pending) + token
        pending, before_special = [], True
    return text + _words(tokenizer, pending)


def _words(tokenizer: Any, tokens: Sequence[str]) -> str:
    return str(tokenizer.backend_tokenizer.decoder.decode(list(tokens))) if tokens else ""
