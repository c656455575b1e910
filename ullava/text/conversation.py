"""Conversation formats as chat templates, and the characters of them that are supervised.

Each template marks the assistant's words with ``{% generation %}``, so the supervised characters come out of the
rendering itself and are never found again by searching or re-tokenising.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ullava.errors import UserError
from ullava.structures import Turn
from ullava.text.tokens import (
    IMAGE_END,
    IMAGE_MARKER,
    IMAGE_PATCH,
    IMAGE_START,
    VIDEO_END,
    VIDEO_MARKER,
    VIDEO_PATCH,
    VIDEO_START,
)

_MARKER = re.compile(f"({re.escape(IMAGE_MARKER)}|{re.escape(VIDEO_MARKER)})")

_IMAGE_PART = "{%- if part['type'] == 'image' -%}" + IMAGE_START + IMAGE_PATCH + IMAGE_END + "{{ '\\n' }}"
_VIDEO_PART = "{%- elif part['type'] == 'video' -%}" + VIDEO_START + VIDEO_PATCH + VIDEO_END + "{{ '\\n' }}"

_CONTENT = (
    "{%- macro words(content) -%}"
    "{%- if content is string -%}{{ content }}"
    "{%- else -%}{%- for part in content -%}"
    + _IMAGE_PART
    + _VIDEO_PART
    + "{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- endmacro -%}"
)

_BOS = "{%- if bos_token -%}{{ bos_token }}{%- endif -%}"

_VICUNA = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ words(message['content']) }}"
    "{%- elif message['role'] == 'user' -%}"
    "{{ ('' if loop.first else ' ') + 'USER: ' + words(message['content']) + ' ASSISTANT:' }}"
    "{%- else -%}{{ ' ' }}{% generation %}{{ words(message['content']) + eos_token }}{% endgeneration %}"
    "{%- endif -%}{%- endfor -%}"
)

_SIMPLE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ words(message['content']) + '\\n' }}"
    "{%- elif message['role'] == 'user' -%}{{ '###Human: ' + words(message['content']) + '\\n###Assistant:' }}"
    "{%- else -%}{{ ' ' }}{% generation %}{{ words(message['content']) + eos_token }}{% endgeneration %}{{ '\\n' }}"
    "{%- endif -%}{%- endfor -%}"
)

_LLAMA2 = (
    "{%- set ns = namespace(system='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}"
    "{%- set ns.system = '<<SYS>>\\n' + words(message['content']) + '\\n<</SYS>>\\n\\n' -%}"
    "{%- elif message['role'] == 'user' -%}"
    "{{ (bos_token or '') + '[INST] ' + ns.system + words(message['content']) + ' [/INST]' }}{%- set ns.system = '' -%}"
    "{%- else -%}{{ ' ' }}{% generation %}{{ words(message['content']) + ' ' + eos_token }}{% endgeneration %}"
    "{%- endif -%}{%- endfor -%}"
)

_CHATML = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{ '<|im_start|>assistant\\n' }}"
    "{% generation %}{{ words(message['content']) + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{%- else -%}{{ '<|im_start|>' + message['role'] + '\\n' + words(message['content']) + '<|im_end|>\\n' }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)

_VICUNA_LINES = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ words(message['content']) + '\\n' }}"
    "{%- elif message['role'] == 'user' -%}{{ 'USER: ' + words(message['content']) + ' ASSISTANT:' }}"
    "{%- else -%}{{ ' ' }}{% generation %}{{ words(message['content']) + eos_token }}{% endgeneration %}"
    "{{ '' if loop.last else '\\n' }}"
    "{%- endif -%}{%- endfor -%}"
)

_LLAMA3 = (
    "{%- for message in messages -%}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{%- if message['role'] == 'assistant' -%}"
    "{% generation %}{{ words(message['content']) + '<|eot_id|>' }}{% endgeneration %}"
    "{%- else -%}{{ words(message['content']) + '<|eot_id|>' }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}"
)

_PHI3 = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ '<|system|>' + words(message['content']) + '<|end|>\\n' }}"
    "{%- elif message['role'] == 'user' -%}{{ '<|user|>' + words(message['content']) + '<|end|>\\n<|assistant|>\\n' }}"
    "{%- else -%}{% generation %}{{ words(message['content']) + '<|end|>' }}{% endgeneration %}"
    "{{ '' if loop.last else '\\n' }}"
    "{%- endif -%}{%- endfor -%}"
)

_PLAIN = (
    "{%- for message in messages if message['role'] != 'system' -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{% generation %}{{ words(message['content']) + '\\n' }}{% endgeneration %}"
    "{%- elif message['content'] is not string -%}"
    "{{ words(message['content'] | rejectattr('type', 'equalto', 'text') | list) | replace('\\n', '') }}"
    "{%- endif -%}{%- endfor -%}"
)

_CONV_SEP2 = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ words(message['content']) + ' ' }}"
    "{%- elif message['role'] == 'user' -%}{{ 'USER: ' + words(message['content']) + ' ASSISTANT:' }}"
    "{%- else -%}{% generation %}{{ ' ' + words(message['content']) + eos_token }}{% endgeneration %}"
    "{%- endif -%}{%- endfor -%}"
)

_CONV_LLAMA2 = (
    "{%- set ns = namespace(system='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}"
    "{%- set ns.system = '<<SYS>>\\n' + words(message['content']) + '\\n<</SYS>>\\n\\n' -%}"
    "{%- elif message['role'] == 'user' -%}"
    "{{ '[INST] ' + ns.system + words(message['content']) + ' [/INST]' }}{%- set ns.system = '' -%}"
    "{%- else -%}{% generation %}{{ ' ' + words(message['content']) + eos_token }}{% endgeneration %}"
    "{%- endif -%}{%- endfor -%}"
)

_CONV_SIMPLE = (
    "{%- if messages[0]['role'] != 'system' -%}{{ '\\n\\n' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ words(message['content']) + '\\n\\n' }}"
    "{%- elif message['role'] == 'user' -%}"
    "{% generation %}{{ '###' }}{% endgeneration %}{{ 'Human: ' + words(message['content']) + '\\n' }}"
    "{%- else -%}"
    "{% generation %}{{ '###Assistant: ' + words(message['content']) + '\\n' }}{% endgeneration %}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '###Assistant:' }}"
    "{%- else -%}{% generation %}{{ '###' }}{% endgeneration %}{%- endif -%}"
)

RELEASED_TEMPLATES: Mapping[str, str] = {
    "conv_simple": _CONTENT + _CONV_SIMPLE,
    "conv_sep2": _CONTENT + _CONV_SEP2,
    "conv_llama2": _CONTENT + _CONV_LLAMA2,
}
"""u-LLaVA's styles, for its released weights. The start token is left to the tokenizer: written in the text it would
swallow the line ends after it (ullava.text.released_tokenizer). The blank before an answer may be a piece of its own,
which the model has to say. In ``conv_simple`` the signs of the turns are supervised too, as in the original."""

CHAT_TEMPLATES: Mapping[str, str] = {
    **RELEASED_TEMPLATES,
    "vicuna_v1": _CONTENT + _BOS + _VICUNA,
    "simple": _CONTENT + _BOS + _SIMPLE,
    "llama2": _CONTENT + _LLAMA2,
    "chatml": _CONTENT + _CHATML,
    "vicuna_lines": _CONTENT + _BOS + _VICUNA_LINES,
    "llama3": _CONTENT + _BOS + _LLAMA3,
    "phi3": _CONTENT + _BOS + _PHI3,
    "plain": _CONTENT + _BOS + _PLAIN,
}
"""Name in ``model.yaml`` -> Jinja chat template (docs/conversations.md).

``plain`` is for captions: it writes the pictures of a question, not its words, and supervises the answer and its line
end."""

_TURN_ENDS: Mapping[str, tuple[str, ...]] = {
    "chatml": ("<|im_end|>", "<|endoftext|>"),
    "llama3": ("<|eot_id|>",),
    "phi3": ("<|end|>",),
}
"""How an answer ends in formats that do not close it with the tokenizer's end token; the first sign is what they write.
"""


def turn_end_ids(tokenizer: Any, chat_template: str | None) -> list[int]:
    """Ids that end an answer: the tokenizer's end token, and those of the format's own signs that the tokenizer has.

    Raises UserError when the sign that the format writes is no token, so that no answer could end with it.
    """
    ends = [int(tokenizer.eos_token_id)]
    name = next((name for name in _TURN_ENDS if CHAT_TEMPLATES[name] == chat_template), None)
    if name is None:
        return ends
    vocabulary = tokenizer.get_vocab()
    written = _TURN_ENDS[name][0]
    if written not in vocabulary:
        raise UserError(f"text.template {name} ends an answer with {written}, which the tokenizer does not have")
    found = [int(vocabulary[sign]) for sign in _TURN_ENDS[name] if sign in vocabulary]
    return ends + [number for number in found if number not in ends]


def with_videos(chat_template: str | None) -> str | None:
    """A template of ours that was saved before it had a place for videos, with that place; any other as it is.

    What it writes for pictures and words stays the same.
    """
    if chat_template is None or VIDEO_START in chat_template:
        return chat_template
    return chat_template.replace(_IMAGE_PART, _IMAGE_PART + _VIDEO_PART)


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
    """Which of u-LLaVA's styles a chat template is; None for any other."""
    return next((name for name, template in RELEASED_TEMPLATES.items() if template == chat_template), None)


def pictures_first(question: str) -> str:
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
