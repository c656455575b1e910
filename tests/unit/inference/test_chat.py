"""Dialogues of several turns: by a history in a call, and by a Chat that keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.inference.test_ecosystem import drawn
from tests.unit.modeling.conftest import build_small, make_image
from tests.unit.modeling.test_matrix import VISION_ENCODERS

import ullava
from ullava.errors import UserError
from ullava.inference.predictor import Predictor
from ullava.modeling.processing.sample_rules import question_sample
from ullava.structures import Answer

FIRST, SECOND = "What is in the image?", "Segment the circle."


@pytest.fixture(scope="module")
def tiny() -> Any:
    return ullava.load("tiny", device="cpu")


def test_a_chat_asks_with_all_that_was_said(tiny: Any) -> None:
    chat = tiny.chat(drawn())
    first, second = chat.ask(FIRST), chat.ask(SECOND)
    assert first.text == tiny.answer(drawn(), FIRST).text
    assert chat.history == [(FIRST, first.text), (SECOND, second.text)]
    for history in ([(FIRST, first.text)], [(FIRST, first)]):
        again = tiny.answer(drawn(), SECOND, history=history)
        assert again.text == second.text and len(again.objects) == len(second.objects)
    *words, third = chat.stream(FIRST, max_new_tokens=5)
    assert "".join(words) == third.text == chat.history[2][1]
    next(pieces := chat.stream(SECOND))
    pieces.close()  # type: ignore[attr-defined]
    assert len(chat.history) == 3, "an answer that was left is not remembered"
    with pytest.raises(UserError, match="the question is empty"):
        chat.ask(" ")
    assert len(chat.history) == 3


@pytest.mark.parametrize("front", sorted(VISION_ENCODERS))
def test_images_are_preprocessed_once_and_rows_stay_the_same(front: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = build_small(VISION_ENCODERS[front])
    predictor = Predictor(model, processor)
    chat = predictor.chat(make_image(0), max_new_tokens=4)
    calls = []
    real = processor.vision.preprocess
    monkeypatch.setattr(processor.vision, "preprocess", lambda *given: calls.append(1) or real(*given))
    first, second = chat.ask("What is it?"), chat.ask("And now?")
    assert len(calls) == 1
    history: list[tuple[str, str | Answer]] = [("What is it?", first)]
    assert predictor.answer(make_image(0), "And now?", history=history, max_new_tokens=4).text == second.text


def test_images_belong_to_the_first_question_unless_placed() -> None:
    paths = (Path("a.png"), Path("b.png"))
    asked = question_sample("And?", paths, history=[("What?", "This.")])
    assert [turn.question for turn in asked.turns] == ["<image><image>What?", "And?"]
    placed = question_sample("And <image>?", paths, history=[("What is <image>?", "This.")])
    assert [turn.question for turn in placed.turns] == ["What is <image>?", "And <image>?"]
    assert [turn.answer for turn in placed.turns] == ["This.", ""]


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (["What?"], "history is a list of pairs: a question and its answer"),
        ([("What?", 3)], "history: a question is a text, its answer a text or an Answer"),
        ([("<image> and <image>?", "This.")], "2 <image> markers, 1 images"),
    ],
)
def test_a_history_that_is_none_is_refused(tiny: Any, history: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny.answer(drawn(), "And?", history=history)


def test_a_chat_that_grows_too_long_is_refused_and_kept(tiny: Any) -> None:
    chat = tiny.chat(drawn())
    chat.history += [("word " * 400, "Yes.")]
    with pytest.raises(UserError, match="more than max_length .*; nothing is cut"):
        chat.ask("And?")
    assert len(chat.history) == 1
