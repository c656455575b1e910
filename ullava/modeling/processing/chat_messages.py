"""Chat messages as the transformers ecosystem writes them, checked and brought to the form that our templates read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ullava.errors import UserError, did_you_mean
from ullava.text.tokens import REGION_MARKER, REGION_PATCH, RESERVED_TOKENS, is_whole

SOURCES: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "url", "path", "base64"),
    "video": ("video", "url", "path"),
}
"""The keys under which a part of a message may hold its image or video."""
ROLES = ("system", "user", "assistant")

Messages = list[dict[str, Any]]


def conversations_of(given: Any) -> tuple[list[Sequence[Mapping[str, Any]]], bool]:
    """Return one or several conversations as a list, and whether there were several. Raises UserError for none."""
    if not isinstance(given, list | tuple) or not given:
        raise UserError("a conversation is a list of messages such as {'role': 'user', 'content': ...}")
    several = isinstance(given[0], list | tuple)
    conversations: list[Sequence[Mapping[str, Any]]] = list(given) if several else [given]
    if not all(conversations):
        raise UserError("a conversation holds no message")
    return conversations, several


def checked_messages(
    messages: Sequence[Mapping[str, Any]],
    *,
    system: str,
    images_first: bool,
    rewrite: Callable[[str], str],
    takes_regions: bool = False,
) -> Messages:
    """Copy a conversation, with the ``system`` sentence in front where it has none of its own.

    ``images_first``: images are moved to the front of their message; ``rewrite`` is applied to the assistant's words.
    ``takes_regions``: ``<region>`` of the user's words is the place of a region.
    Raises UserError for a part that would not become words, an image or a video: nothing may get lost.
    """
    checked: Messages = []
    for number, message in enumerate(messages, start=1):
        where = f"message {number}"
        if not isinstance(message, Mapping) or "role" not in message:
            raise UserError(f"{where}: expected {{'role': ..., 'content': ...}}")
        role = message["role"]
        if role not in ROLES:
            raise UserError(f"{where}: role '{role}' is none of {', '.join(ROLES)}")
        content = message.get("content")
        if isinstance(content, str):
            parts = [{"type": "text", "text": content}]
        elif isinstance(content, list | tuple):
            parts = [_part(part, f"{where}, part {place}") for place, part in enumerate(content, start=1)]
        else:
            raise UserError(f"{where}: content is text or a list of parts, not {type(content).__name__}")
        for part in (part for part in parts if part["type"] == "text"):
            if not is_whole(part["text"]):
                raise UserError(f"{where}: holds half of a character")
            if role == "assistant":
                part["text"] = rewrite(part["text"])
            elif sign := next((token for token in RESERVED_TOKENS if token in part["text"]), None):
                raise UserError(f"{where}: holds the special token {sign}")
            elif takes_regions and role == "user":
                part["text"] = part["text"].replace(REGION_MARKER, REGION_PATCH)
        if images_first:
            parts.sort(key=lambda part: part["type"] != "image")
        checked.append({**message, "content": parts[0]["text"] if isinstance(content, str) else parts})
    if system and checked[0]["role"] != "system":
        checked.insert(0, {"role": "system", "content": system})
    return checked


def checked_texts(text: Any) -> list[str]:
    """Return one or several texts as a list. Raises UserError for none, an empty one, and one with half a character."""
    texts = [text] if isinstance(text, str) else list(text) if isinstance(text, list | tuple) else []
    if not texts or not all(isinstance(entry, str) for entry in texts):
        raise UserError(f"text is a text or a list of texts, not {type(text).__name__ if not texts else 'a mixture'}")
    for number, entry in enumerate(texts, start=1):
        if not entry.strip():
            raise UserError(f"row {number}: the text is empty")
        if not is_whole(entry):
            raise UserError(f"row {number}: the text holds half of a character")
    return texts


def media_of(messages: Messages, kind: str) -> list[Any]:
    """Return the images (or videos) of a conversation in reading order. Raises UserError for a part without one."""
    found: list[Any] = []
    for number, message in enumerate(messages, start=1):
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] != kind:
                continue
            given = [key for key in SOURCES[kind] if part.get(key) is not None]
            if len(given) != 1:
                which = f"both {given[0]} and {given[1]}" if given else f"none of {', '.join(SOURCES[kind])}"
                raise UserError(f"message {number}: a part of type {kind} has {which}")
            source = part[given[0]]
            found.append(f"data:image/unknown;base64,{source}" if given[0] == "base64" else source)
    return found


def _part(part: Any, where: str) -> dict[str, Any]:
    """A copy of one part of a message; an ``image_url`` as OpenAI writes it becomes an image."""
    if not isinstance(part, Mapping) or "type" not in part:
        raise UserError(f"{where}: expected {{'type': 'text' or 'image' or 'video', ...}}")
    kind = part["type"]
    if kind == "image_url":
        source = part.get("image_url")
        return {"type": "image", "url": source.get("url") if isinstance(source, Mapping) else source}
    known = ("text", *SOURCES)
    if kind not in known:
        raise UserError(f"{where}: the model reads no part of type '{kind}'{did_you_mean(str(kind), known)}")
    if kind == "text" and not isinstance(part.get("text"), str):
        raise UserError(f"{where}: a part of type text has no text")
    return dict(part)


def items_by_row(given: Any, places: Sequence[int], what: str) -> list[list[Any]]:
    """Share out items over the rows, which have so many ``places``. Raises UserError where the numbers differ."""
    items = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    nested = [item is None or isinstance(item, list | tuple) for item in items]
    if items and what != "boxes" and all(nested) or any(isinstance(item, list | tuple) for item in items):
        if not all(nested) or len(items) != len(places):
            raise UserError(f"{what}: {len(items)} entries for {len(places)} texts; give a list for each text")
        rows = [list(item or ()) for item in items]
    elif len(places) == 1:
        rows = [items]
    else:
        if len(items) != sum(places):
            raise UserError(f"the texts have {sum(places)} places for {what}, {len(items)} {what} are given")
        ends = np.cumsum(places)
        rows = [items[end - count : end] for end, count in zip(ends, places, strict=True)]
    for number, (row, count) in enumerate(zip(rows, places, strict=True), start=1):
        if len(row) != count:
            raise UserError(f"row {number}: the text has {count} places for {what}, {len(row)} {what} are given")
    return rows
