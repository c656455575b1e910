"""Words that would turn into special tokens, or into nothing, are refused by one rule."""

from __future__ import annotations

import pytest

from ullava.text.phrases import MAX_EXPRESSION, MAX_NAME, expression_fault, name_fault, turn_fault
from ullava.text.tokens import GROUNDING_TOKENS

FAULTS = [
    ("", "is blank"),
    (" \t ", "blank"),
    ("\u200b\ufeff", "is blank"),
    ("a\nb", "holds a line break"),
    ("a\u2028b", "holds a line break"),
    ("a\x07b", "holds the control character U+0007"),
    ("a\0", "holds the control character U+0000"),
    ("\ud83d", "blank"),
    ("a \ud83d", "holds half of a surrogate pair"),
    ("cat [SEG]", "holds the special token [SEG]"),
    ("[TAG]cat", "holds the special token [TAG]"),
    ("cat</s>", "holds the special token </s>"),
    ("<image>", "holds the special token <image>"),
    ("a <video> b", "holds the special token <video>"),
    ("<|im_end|>", "holds the special token <|im_end|>"),
    ("[PAD]", "holds the special token [PAD]"),
    *[(f"a {token}", f"holds the special token {token}") for token in GROUNDING_TOKENS],
]


@pytest.mark.parametrize(("text", "fault"), FAULTS)
def test_what_is_no_name_is_no_expression_either(text: str, fault: str) -> None:
    assert fault in expression_fault(text)
    assert fault in name_fault(text) or name_fault(text) == "holds a tab"


@pytest.mark.parametrize(
    "text", ["cat", "Hund (groß)", "猫", "می\u200cخواهم", "rock & roll <3", "a[0]", "<b>", "C++", "100 %", "👩\u200d🚒"]
)
def test_ordinary_names_pass(text: str) -> None:
    assert name_fault(text) == expression_fault(text) == turn_fault(text, answer=True) == ""


def test_lengths_and_tabs() -> None:
    assert name_fault("a" * MAX_NAME) == "" == expression_fault("a\tb" * (MAX_EXPRESSION // 3))
    assert name_fault("a" * 5000) == "has 5000 letters, more than 200"
    assert expression_fault("a" * 5000) == "has 5000 letters, more than 2000"
    assert name_fault("a\tb") == "holds a tab"


def test_conversations_are_refused_only_for_what_no_row_can_be_made_of() -> None:
    assert turn_fault("The token </s> ends a text.\nSo does <|im_end|>.", answer=True) == ""
    assert turn_fault("a [tag]cat[/tag]", answer=True) == ""
    assert turn_fault("a [tag]cat[/tag]", answer=False) == "holds the special token [tag]"
    for answer in (True, False):
        assert turn_fault("see [SEG]", answer=answer) == "holds the special token [SEG]"
