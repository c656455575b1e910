"""Conversation formats that come from a file: that of a saved model, and one of the user's own in ``model.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from ullava.config.schema import TextConfig
from ullava.config.site import Site
from ullava.errors import ConfigError, DataError
from ullava.given_files import read_plain_text
from ullava.modeling.loading.weight_files import short_reason
from ullava.structures import Turn
from ullava.text.conversation import CHAT_TEMPLATES, in_parts, marks_answers, to_messages, with_parts
from ullava.text.tokens import IMAGE_MARKER, IMAGE_PATCH

PROBE = "what-is-asked"
REPLY = "what-is-answered"


def chat_template_of(text: TextConfig, folder: Path, site: Site) -> str:
    """Return the chat template that ``text.template`` means: a format of ours, or a file ``*.jinja`` below ``folder``.

    ``site``: where ``text`` was written. Raises ConfigError for a file that is not there or does not write down an
    image, what is asked and what is answered, the latter marked as the assistant's.
    """
    if text.template in CHAT_TEMPLATES:
        return CHAT_TEMPLATES[text.template]
    where, path = site.of("template"), folder / Path(text.template).expanduser()
    try:
        template = with_parts(read_plain_text(path, what="chat template"))
        problems = template_problems(path, template, own=True)
    except DataError as error:
        problems = list(error.problems)
    if problems:
        raise ConfigError([f"{where}: {problem}" for problem in problems])
    return template


def template_problems(file: Path, template: str, own: bool = False) -> list[str]:
    """Say what is wrong with a conversation format of ``file``: it does not write down what is asked and answered.

    ``own``: it is one to train with, so that it also has to place images and to mark answers.
    """
    if template in CHAT_TEMPLATES.values():
        return []
    question = f"{IMAGE_MARKER}{PROBE}" if own else PROBE
    messages = to_messages([Turn(question, REPLY)])
    try:
        texts, spans = _rendered(messages, template)
        if REPLY not in texts[0] and not own:
            texts, spans = _rendered(in_parts(messages), template)
    except jinja2.TemplateSyntaxError as error:
        return [f"{file}:{error.lineno}: {short_reason(error)}"]
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        return [f"{file}: cannot be used: {short_reason(error)}"]
    if PROBE not in texts[0] or REPLY not in texts[0]:
        return [f"{file}: it leaves out what is asked or answered"]
    if not own:
        return []
    marked = "".join(texts[0][begin:end] for begin, end in (spans[0] if spans else ()))
    problems = []
    if texts[0].count(IMAGE_PATCH) != 1:
        problems.append(f"{file}: it writes {texts[0].count(IMAGE_PATCH)} {IMAGE_PATCH} for an image; it has to be one")
    if REPLY not in marked or PROBE in marked:
        problems.append(f"{file}: answers, and nothing of questions, have to stand in {{% generation %}}")
    return problems


def _rendered(messages: list[dict[str, Any]], template: str) -> Any:
    """What a template writes, and the characters of it that it marks as the assistant's."""
    return render_jinja_template(
        [messages],
        chat_template=template,
        return_assistant_tokens_mask=marks_answers(template),
        bos_token="<s>",
        eos_token="</s>",
    )
