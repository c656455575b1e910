"""``text`` of model.yaml: how a conversation is written down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ullava.config.fields import at_least
from ullava.errors import did_you_mean

Template = Literal[
    "vicuna_v1",
    "vicuna_lines",
    "llama2",
    "llama3",
    "phi3",
    "chatml",
    "simple",
    "plain",
    "conv_simple",
    "conv_sep2",
    "conv_llama2",
]
"""Formats of conversations (docs/conversations.md)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """How a conversation is written down (docs/conversations.md). ``conv_*`` are u-LLaVA's styles.

    ``template``: a format of ours, or a file ``*.jinja``, relative to the file of this table.

    ``answer``: whether an answer names a thing before it points at it, or after, as u-LLaVA's do (ullava.text.answers).

    ``as_released`` reproduces, in those styles, its stray blanks and its counting of labels, which loses some samples
    (ullava.text.rows_ullava_v1).

    ``system``: words before the first question. ``max_length``: the longest row in tokens, visual ones included; a
    longer one is refused, not cut.
    """

    template: str = "vicuna_v1"
    as_released: bool = False
    answer: Literal["name_first", "name_last"] = "name_first"
    system: str = ""
    max_length: int = field(default=512, metadata=at_least(1, 1 << 24))

    def __post_init__(self) -> None:
        """Refuse a format that is neither one of ours nor a file (ValueError)."""
        if self.template not in get_args(Template) and not self.template.endswith(".jinja"):
            near = did_you_mean(self.template, get_args(Template))
            raise ValueError(f"template: no format '{self.template:.80}'{near}; your own is a file *.jinja")
