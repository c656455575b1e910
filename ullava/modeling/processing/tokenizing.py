"""A dialogue as token ids and labels, through the chat template."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import transformers
from numpy.typing import NDArray
from transformers.utils.chat_template_utils import render_jinja_template

from ullava.errors import UserError
from ullava.structures import Turn
from ullava.text.conversation import images_first, in_parts, marks_answers, released_style, to_messages
from ullava.text.tokens import IGNORE_LABEL

Row = tuple[NDArray[np.int64], NDArray[np.int64]]
Shown = Mapping[str, Sequence[str]]
"""What stands in a row's text for its images and videos: the sign of a kind -> the texts of its items, in order."""
TokenizedRow = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]
"""Ids [L], labels [L] and, where the vision strategy reads them, the ids [t] of what is asked."""


def tokenizer_fingerprint(processor: Any) -> str:
    """A short name of all that ``UllavaProcessor.tokenize`` depends on beside the sample."""
    tokenizer = processor.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    told = {
        "tokenizer": backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items()),
        "kind": type(tokenizer).__name__,
        "signs": {name: str(sign) for name, sign in tokenizer.special_tokens_map.items()},
        "chat_template": processor.chat_template,
        "system": processor.system,
        "answer": processor.answer,
        "as_released": processor.as_released,
        "core": processor.core,
        "instruction": processor.vision.reads_text,
        "transformers": transformers.__version__,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def tokenize(
    tokenizer: Any,
    chat_template: str | None,
    turns: Sequence[Turn],
    *,
    system: str,
    prompt_only: bool,
    shown: Shown | None = None,
) -> Row:
    """Ids [L] and labels [L]; supervised are the characters that the template marks as the assistant's.

    With ``prompt_only`` the last answer is left for the model to give and nothing is supervised. Every image is one
    placeholder, or what ``shown`` has of it. In u-LLaVA's own styles images come first in their turn, and the tokenizer
    adds the start token. Raises UserError where the text has another number of signs than ``shown`` has items.
    """
    ids, labels = _render(tokenizer, chat_template, turns, system, prompt_only, shown)
    return ids, np.full_like(ids, IGNORE_LABEL) if prompt_only else labels


def instruction_of(
    tokenizer: Any,
    chat_template: str | None,
    turns: Sequence[Turn],
    *,
    system: str,
    left_out: Sequence[int],
) -> NDArray[np.int64]:
    """The ids [t] of a dialogue's words that are not the assistant's, without those in ``left_out``.

    They come from the dialogue without its last answer, in training as in inference: so they are the same in both, and
    no word of an answer is among them.
    """
    ids, labels = _render(tokenizer, chat_template, turns, system, prompt_only=True)
    return ids[(labels == IGNORE_LABEL) & ~np.isin(ids, left_out)]


def instruction_of_messages(
    tokenizer: Any, chat_template: str | None, messages: Sequence[Mapping[str, Any]], left_out: Sequence[int]
) -> NDArray[np.int64]:
    """The same ids [t] of chat messages, which may end with an answer or without one."""
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    ids, labels = _render_messages(tokenizer, chat_template, asked, prompt_only=True)
    return ids[(labels == IGNORE_LABEL) & ~np.isin(ids, left_out)]


def written_out(text: str, shown: Shown) -> tuple[str, list[tuple[int, int]]]:
    """A row's text with its items in the places of their signs, and (place, growth) of each in the text as it was.

    Raises UserError where a sign does not stand as often as there are items.
    """
    pattern = re.compile("|".join(map(re.escape, shown)))
    for sign, items in shown.items():
        if (places := text.count(sign)) != len(items):
            raise UserError(f"the text has {places} places ({sign}) for {len(items)} items: the model's chat template "
                            "has no place for them, or the words hold that sign")  # fmt: skip
    left = {sign: iter(items) for sign, items in shown.items()}
    pieces, growth, here = [], [], 0
    for found in pattern.finditer(text):
        item = next(left[found[0]])
        pieces += [text[here : found.start()], item]
        growth.append((found.start(), len(item) - len(found[0])))
        here = found.end()
    return "".join([*pieces, text[here:]]), growth


def adds_start_token(chat_template: str | None) -> bool:
    """Whether a chat template leaves the start token to the tokenizer; others write it where they want one."""
    return released_style(chat_template) is not None


def _render(
    tokenizer: Any,
    chat_template: str | None,
    turns: Sequence[Turn],
    system: str,
    prompt_only: bool,
    shown: Shown | None = None,
) -> Row:
    """Ids [L] and, as labels [L], those of the assistant's words."""
    released = adds_start_token(chat_template)
    if released:
        turns = [replace(turn, question=images_first(turn.question)) for turn in turns]
    messages = to_messages(turns, system, prompt_only, exact=released)
    return _render_messages(tokenizer, chat_template, messages, prompt_only, shown)


def _render_messages(
    tokenizer: Any,
    chat_template: str | None,
    messages: Sequence[Mapping[str, Any]],
    prompt_only: bool,
    shown: Shown | None = None,
) -> Row:
    if marks_answers(chat_template):
        rendered, spans = render_jinja_template(
            conversations=[messages],
            chat_template=chat_template,
            return_assistant_tokens_mask=True,
            add_generation_prompt=prompt_only,
            **tokenizer.special_tokens_map,
        )
        adds = adds_start_token(chat_template)
    else:
        text, answers = _render_unmarked(tokenizer, chat_template, messages, prompt_only)
        rendered, spans = [text], [answers]
        adds = not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))
    text, growth = (rendered[0], []) if shown is None else written_out(rendered[0], shown)
    coded = tokenizer(text, add_special_tokens=adds, return_offsets_mapping=True)
    ids = np.asarray(coded["input_ids"], dtype=np.int64)
    labels = np.full_like(ids, IGNORE_LABEL)
    starts, ends = np.asarray(coded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    for begin, stop in spans[0]:
        grown = sum(more for place, more in growth if place < begin)  # an answer holds no items itself
        begin, stop = begin + grown, stop + grown
        inside = (ends > begin) & (starts < stop)
        labels[inside] = ids[inside]
    return ids, labels


def _render_unmarked(
    tokenizer: Any, chat_template: str | None, messages: Sequence[Mapping[str, Any]], prompt_only: bool
) -> tuple[str, list[tuple[int, int]]]:
    """A dialogue as text, and where the answers stand in it, each with its end token.

    Words are handed over as text, and as parts of a message to a format that reads only those. An answer begins where
    the dialogue before it ends, the sign for an answer included. Raises UserError for a format in which that does not
    hold, or that closes an answer without the tokenizer's end token.
    """

    def written(shown: Sequence[Mapping[str, Any]], open_end: bool) -> str:
        texts, _ = render_jinja_template(
            conversations=[list(shown)],
            chat_template=chat_template,
            add_generation_prompt=open_end,
            **tokenizer.special_tokens_map,
        )
        return str(texts[0])

    answers = {number: message["content"] for number, message in enumerate(messages) if message["role"] == "assistant"}
    whole = written(messages, prompt_only)
    if not all(said.strip() in whole for said in answers.values()) or not answers:
        messages = in_parts(messages)
        whole = written(messages, prompt_only)
    spans = []
    for number, said in answers.items():
        before = written(messages[:number], True)
        end = whole.find(tokenizer.eos_token, len(before) + len(said))
        if not whole.startswith(before) or said.strip() not in whole[len(before) : end] or end < 0:
            raise UserError("the chat template does not write an answer behind the sign for one, up to the end token")
        spans.append((len(before), end + len(tokenizer.eos_token)))
    return whole, spans
