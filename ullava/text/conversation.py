"""Conversation formats as chat templates, and the characters of them that are supervised.

Each template marks the assistant's words with ``{% generation %}``, so the supervised characters come out of the
rendering itself and are never found again by searching or re-tokenising.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

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

_CONTENT = (
    "{%- macro words(content) -%}"
    "{%- if content is string -%}{{ content }}"
    "{%- else -%}{%- for part in content -%}"
    "{%- if part['type'] == 'image' -%}" + IMAGE_START + IMAGE_PATCH + IMAGE_END + "{{ '\\n' }}"
    "{%- elif part['type'] == 'video' -%}" + VIDEO_START + VIDEO_PATCH + VIDEO_END + "{{ '\\n' }}"
    "{%- else -%}{{ part['text'] }}{%- endif -%}"
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
    "{{ bos_token + '[INST] ' + ns.system + words(message['content']) + ' [/INST]' }}{%- set ns.system = '' -%}"
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

CHAT_TEMPLATES: Mapping[str, str] = {
    "vicuna_v1": _CONTENT + _BOS + _VICUNA,
    "simple": _CONTENT + _BOS + _SIMPLE,
    "llama2": _CONTENT + _LLAMA2,
    "chatml": _CONTENT + _CHATML,
}
"""Name in ``model.yaml`` -> Jinja chat template."""


def question_content(question: str) -> list[dict[str, str]]:
    """Split ``"<image>Segment the cup."`` into message parts; ``<image>`` and ``<video>`` are parts in their places."""
    parts: list[dict[str, str]] = []
    pieces = _MARKER.split(question)
    for number, piece in enumerate(pieces):
        if number % 2:
            parts.append({"type": "image" if piece == IMAGE_MARKER else "video"})
            continue
        text = piece.strip(" \n") if len(pieces) > 1 else piece.strip()
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def to_messages(turns: Sequence[Turn], system: str = "", prompt_only: bool = False) -> list[dict[str, Any]]:
    """Chat messages of ``turns``; with ``prompt_only`` the last answer is left for the model to give."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for number, turn in enumerate(turns):
        messages.append({"role": "user", "content": question_content(turn.question)})
        if not (prompt_only and number == len(turns) - 1):
            messages.append({"role": "assistant", "content": turn.answer})
    return messages
