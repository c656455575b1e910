"""u-LLaVA's own texts, ids and labels for its three conversation styles, defects included (its released code of 2023 to
2025).

For comparing with its numbers and for continuing training exactly as it did: ``text.as_released: true`` in model.yaml.
By default our chat templates of the same names write the same well-formed dialogues, and supervise the answers where
they were written. The original counts tokens again instead, and so loses a whole sample when an answer ends in a blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ullava.errors import UserError, did_you_mean
from ullava.text.tokens import (
    IGNORE_LABEL,
    IMAGE_END,
    IMAGE_MARKER,
    IMAGE_PATCH,
    IMAGE_START,
    VIDEO_END,
    VIDEO_MARKER,
    VIDEO_PATCH,
    VIDEO_START,
)

STYLES = ("conv_simple", "conv_sep2", "conv_llama2")
SYSTEM = {
    "conv_simple": "",
    "conv_sep2": "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
    "conv_llama2": "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language.",
}
"""The public system sentences of Vicuna 1.1 and of LLaVA's Llama-2 style."""

SIGN = "###"
END = "</s>"

Said = tuple[str, str]
"""Who speaks (``human`` or ``gpt``) and what."""


@dataclass(frozen=True, slots=True)
class ReleasedRow:
    """A training row. ``mismatch``: the two counts (own, real) because of which every label was set to -100."""

    text: str
    input_ids: list[int]
    labels: list[int]
    mismatch: tuple[int, int] | None = None


def with_image(said: Sequence[Said], patches: int) -> list[Said]:
    """Move ``<image>`` to the front of its turn, once, and write it as start token, ``patches`` patches, end token."""
    block = IMAGE_START + IMAGE_PATCH * patches + IMAGE_END
    return [
        (who, f"{block}\n{words.replace(IMAGE_MARKER, '').strip()}" if IMAGE_MARKER in words else words)
        for who, words in said
    ]


def with_video(said: Sequence[Said], tokens: int) -> list[Said]:
    """Write ``<video>``, where it stands, as start token, ``tokens`` patches, end token (TGIF has it last)."""
    block = VIDEO_START + VIDEO_PATCH * tokens + VIDEO_END
    return [(who, words.replace(VIDEO_MARKER, block)) for who, words in said]


def training_text(said: Sequence[Said], style: str) -> str:
    """The full text of a dialogue.

    Raises:
        UserError: unknown style; in all but ``conv_simple`` an unknown speaker, speakers that do not alternate, or an
            empty first question in ``conv_llama2``.
    """
    _check_style(style)
    if style == "conv_simple":
        return "\n\n" + "".join(_simple_turns(said)) + SIGN
    return _two_ends(_alternating(said), style)


def open_text(said: Sequence[Said], style: str) -> str:
    """The prompt for inference: a dialogue that ends where the model speaks (in ``conv_simple`` not a beginning of the
    training text, which is a defect of the original).

    Raises:
        UserError: unknown style or speaker, or an empty first question in ``conv_llama2``.
    """  # fmt: skip
    _check_style(style)
    words = [text for _, text in said]
    if style == "conv_simple":
        names = [_simple_name(who) for who, _ in said]
        turns = (f"{name}: {text}{SIGN}" if text else f"{name}:" for name, text in zip(names, words, strict=True))
        return f"{SIGN}{''.join(turns)}Assistant:"
    speakers = [_speaker(who) for who, _ in said]
    return _two_ends([*zip(speakers, words, strict=True), ("gpt", "")], style)


def released_row(tokenizer: Any, said: Sequence[Said], style: str, max_length: int) -> ReleasedRow:
    """Ids and labels of a dialogue as the original makes them, cut at ``max_length``.

    Raises:
        UserError: as ``training_text``; an answer that is empty or holds the mark between question and answer.
    """
    text = training_text(said, style)
    ids = _ids(tokenizer, text, max_length)
    if style == "conv_simple":
        return ReleasedRow(text, ids, _simple_labels(tokenizer, said, ids, max_length))
    labels, mismatch = _answer_labels(tokenizer, text, style, ids, max_length)
    return ReleasedRow(text, ids, labels, mismatch)


def _check_style(style: str) -> None:
    if style not in STYLES:
        raise UserError(f"unknown conversation style '{style}'{did_you_mean(style, STYLES)}")


def _simple_name(who: str) -> str:
    return {"human": "Human", "gpt": "Assistant"}.get(who.lower(), "unknown")


def _simple_turns(said: Sequence[Said]) -> list[str]:
    return [f"{SIGN}{_simple_name(who)}: {words}\n" for who, words in said]


def _speaker(who: str) -> str:
    if who not in ("human", "gpt"):
        raise UserError(f"a turn is from '{who}'{did_you_mean(who, ('human', 'gpt'))}")
    return who


def _alternating(said: Sequence[Said]) -> list[Said]:
    """Drop an answer that comes first; then questions and answers must take turns."""
    turns = [(_speaker(who), words) for who, words in said]
    if turns and turns[0][0] == "gpt":
        turns = turns[1:]
    for place, (who, _) in enumerate(turns):
        if who != ("human", "gpt")[place % 2]:
            raise UserError(f"turn {place + 1} is from '{who}', questions and answers have to alternate")
    return turns


def _two_ends(turns: Sequence[Said], style: str) -> str:
    """``conv_sep2`` or ``conv_llama2``: what stands after a turn depends on its place, an empty one has nothing."""
    if style == "conv_sep2":
        names = {"human": "USER", "gpt": "ASSISTANT"}
        written = (
            f"{names[who]}: {words}{(' ', END)[place % 2]}" if words else f"{names[who]}:"
            for place, (who, words) in enumerate(turns)
        )
        return f"{SYSTEM[style]} {''.join(written)}"
    if not turns or not turns[0][1]:
        raise UserError("conv_llama2 needs words in the first question")
    first = f"<<SYS>>\n{SYSTEM[style]}\n<</SYS>>\n\n{turns[0][1]}"
    words_of = [first, *(words for _, words in turns[1:])]
    return "".join(
        "" if not words else (f" {words}{END}" if place % 2 else f"[INST] {words} [/INST]")
        for place, words in enumerate(words_of)
    )


def _ids(tokenizer: Any, text: str, max_length: int | None = None) -> list[int]:
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids if max_length is None else ids[:max_length]


def _real_length(tokenizer: Any, ids: Sequence[int]) -> int:
    """Tokens that are no padding; in stage II ``<unk>`` is the padding, so that one in a text is not counted."""
    return sum(token != tokenizer.pad_token_id for token in ids)


def _simple_labels(tokenizer: Any, said: Sequence[Said], ids: Sequence[int], max_length: int) -> list[int]:
    """Everything but the header and, of each question, all after its first two tokens (``###``).

    Turns are tokenized alone: their start token stands for the second token that ``###`` has inside a text.
    """
    labels = list(ids)
    place = _real_length(tokenizer, _ids(tokenizer, "\n\n", max_length))
    labels[:place] = [IGNORE_LABEL] * min(place, len(labels))
    for (who, _), turn in zip(said, _simple_turns(said), strict=True):
        length = _real_length(tokenizer, _ids(tokenizer, turn, max_length))
        if who == "human":
            _ignore(labels, place + 2, place + length)
        place += length
    return labels


def _answer_labels(
    tokenizer: Any, text: str, style: str, ids: Sequence[int], max_length: int
) -> tuple[list[int], tuple[int, int] | None]:
    """Only answers and their ``</s>``; places are found by tokenizing every round and every question again."""
    mark = " ASSISTANT: " if style == "conv_sep2" else " [/INST] "
    labels = list(ids)
    real = _real_length(tokenizer, ids)
    _ignore(labels, 0, 1)
    place = 1
    for exchange in text.split(END):
        if not exchange:
            break
        parts = exchange.split(mark)
        if len(parts) != 2:
            raise UserError(
                f"an exchange holds {len(parts) - 1} times '{mark.strip()}', where an answer begins, not once"
            )
        _ignore(labels, place, place + len(_ids(tokenizer, parts[0] + mark)) - 2)
        place += len(_ids(tokenizer, exchange))
    _ignore(labels, place, len(labels))
    if place < max_length and place != real:
        return [IGNORE_LABEL] * len(labels), (place, real)
    return labels, None


def _ignore(labels: list[int], start: int, stop: int) -> None:
    for place in range(max(start, 0), min(stop, len(labels))):
        labels[place] = IGNORE_LABEL
