"""Conversation formats as chat templates, and the characters of them that are supervised.

Each template marks the assistant's words with ``{% generation %}``, so the supervised characters come out of the
rendering itself and are never found again by searching or re-tokenizing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from ullava.errors import UserError
from ullava.structures import Turn
from ullava.text.rows_ullava_v1 import STYLES
from ullava.text.tokens import IMAGE_MARKER, VIDEO_MARKER, VIDEO_START

_MARKER = re.compile(f"({re.escape(IMAGE_MARKER)}|{re.escape(VIDEO_MARKER)})")

_FOLDER = files("ullava.text") / "templates"
_INCLUDE = re.compile(r'\{% include "(parts/(?:words|bos|videos)\.jinja)" %\}')
_ENDS = re.compile(r"\{# An answer ends with: (.*?) #\}")
"""How an answer ends in a format that does not close it with the tokenizer's end token: signs, of which the first is
what the format writes."""


def _read(name: str) -> str:
    """Return a file of ``templates/`` as one line, with what it includes and without comments and indents.

    A saved model carries this very text and is known again by it.
    """
    lines = (line.strip() for line in (_FOLDER / name).read_text(encoding="utf-8").splitlines())
    return with_parts("".join(line for line in lines if not line.startswith("{#")))


def with_parts(text: str) -> str:
    """Return a template with the parts of ours that it includes (``parts/words.jinja`` is the macro ``words``)."""
    return _INCLUDE.sub(lambda found: _read(found[1]), text)


CHAT_TEMPLATES: Mapping[str, str] = {
    name: _read(f"{name}.jinja")
    for name in sorted(entry.name.removesuffix(".jinja") for entry in _FOLDER.iterdir() if entry.is_file())
}
"""Name in ``model.yaml`` -> Jinja chat template: the files of ``ullava/text/templates`` (docs/conversations.md)."""

_VIDEOS = _read("parts/videos.jinja")
_WORDS = _read("parts/words.jinja")


def turn_end_ids(tokenizer: Any, chat_template: str | None) -> list[int]:
    """Ids that end an answer: the tokenizer's end token, and those of the format's own signs that the tokenizer has.

    Raises UserError when the sign that the format writes is no token, so that no answer could end with it.
    """
    ends = [int(tokenizer.eos_token_id)]
    name = next((name for name, known in CHAT_TEMPLATES.items() if known == chat_template), None)
    written = (_FOLDER / f"{name}.jinja").read_text(encoding="utf-8") if name is not None else chat_template or ""
    stated = _ENDS.search(written)
    if stated is None:
        return ends
    vocabulary, signs = tokenizer.get_vocab(), stated[1].split()
    if signs[0] not in vocabulary:
        raise UserError(
            f"text.template {name or 'of your own'} ends an answer with {signs[0]}, which the tokenizer does not have"
        )
    found = [int(vocabulary[sign]) for sign in signs if sign in vocabulary]
    return ends + [number for number in found if number not in ends]


def with_videos(chat_template: str | None) -> str | None:
    """A template of ours that was saved before it had a place for videos, with that place; any other as it is.

    What it writes for images and words stays the same.
    """
    if chat_template is None or VIDEO_START in chat_template:
        return chat_template
    return chat_template.replace(_WORDS.replace(_VIDEOS, ""), _WORDS)


def question_content(question: str, exact: bool = False) -> list[dict[str, str]]:
    """Split ``"<image>Segment the cup."`` into message parts; ``<image>`` and ``<video>`` are parts in their places.

    Blanks around words go, unless the words are to be taken ``exact``-ly.
    """
    parts: list[dict[str, str]] = []
    pieces = _MARKER.split(question)
    for number, piece in enumerate(pieces):
        if number % 2:
            parts.append({"type": "image" if piece == IMAGE_MARKER else "video"})
            continue
        text = piece if exact else piece.strip(" \n") if len(pieces) > 1 else piece.strip()
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def released_style(chat_template: str | None) -> str | None:
    """Which of u-LLaVA's styles a chat template is; None for any other.

    These leave the start token to the tokenizer: written in the text it would swallow the line ends after it
    (ullava.text.released_tokenizer). The blank before an answer may be a piece of its own, which the model has to say.
    """
    return next((style for style in STYLES if CHAT_TEMPLATES[style] == chat_template), None)


def marks_answers(chat_template: str | None) -> bool:
    """Whether a template says which of its characters are the assistant's; those of other models' makers seldom do."""
    return bool(re.search(r"{%-?\s*generation", chat_template or ""))


def in_parts(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same messages, their words as parts of type text, which every image-text-to-text template reads."""
    return [
        {**message, "content": [{"type": "text", "text": content}] if isinstance(content, str) else content}
        for message in messages
        for content in (message["content"],)
    ]


def images_first(question: str) -> str:
    """Move every ``<image>`` of a question to its front, where u-LLaVA has them, and strip its words.

    A question without any keeps its blanks, as u-LLaVA's do.
    """
    if IMAGE_MARKER not in question:
        return question
    return IMAGE_MARKER * question.count(IMAGE_MARKER) + question.replace(IMAGE_MARKER, "").strip()


def to_messages(
    turns: Sequence[Turn], system: str = "", prompt_only: bool = False, exact: bool = False
) -> list[dict[str, Any]]:
    """Chat messages of ``turns``; with ``prompt_only`` the last answer is left for the model to give.

    ``exact``: questions keep the blanks around their words.
    """
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for number, turn in enumerate(turns):
        messages.append({"role": "user", "content": question_content(turn.question, exact)})
        if not (prompt_only and number == len(turns) - 1):
            messages.append({"role": "assistant", "content": turn.answer})
    return messages
