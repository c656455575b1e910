"""How answers are chosen: greedily, drawn from a seed, up to a stop; and what is refused in one line."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.inference.test_ecosystem import asked, drawn

import ullava
from ullava.errors import UserError
from ullava.inference.generation import Decoding, decoding_of
from ullava.modeling.processing.sample_rules import question_sample
from ullava.structures import Answer

QUESTION = "Segment the circle."


@pytest.fixture(scope="module")
def tiny() -> Any:
    return ullava.load("tiny", device="cpu")


def test_a_seed_draws_the_same_answer_again_and_disturbs_nobody(tiny: Any) -> None:
    options = {"temperature": 3.0, "top_p": 0.99, "max_new_tokens": 12}
    before = torch.random.get_rng_state()
    texts = [tiny.answer(drawn(), QUESTION, seed=seed, **options).text for seed in (1, 1, 2, 3)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert texts[0] == texts[1] and len(set(texts)) > 1
    greedy = tiny.answer(drawn(), QUESTION).text
    assert tiny.answer(drawn(), QUESTION, temperature=0).text == greedy
    assert tiny.answer(drawn(), QUESTION, temperature=5.0, top_k=1, seed=0).text == greedy


def test_an_answer_stops_before_a_text(tiny: Any) -> None:
    whole = tiny.answer(drawn(), QUESTION)
    assert "[/tag]" in whole.text and len(whole.objects) == 1
    short = tiny.answer(drawn(), QUESTION, stop="[/tag]")
    assert short.text == whole.text.split("[/tag]")[0].rstrip() and short.finished and not short.objects
    assert short.new_tokens < whole.new_tokens
    samples = [question_sample(question, ()) for question in ("How are you?", "What can you do?")]
    alone = [answer.text for answer in tiny.answer_samples(samples)]
    word = alone[0].split()[-1]
    assert [answer.text for answer in tiny.answer_samples(samples, stop=[word, "never said"])] == [
        text.split(word)[0].rstrip() for text in alone
    ]


def test_beams_say_what_is_likelier_and_ground_it(tiny: Any) -> None:
    inputs = tiny.processor.apply_chat_template(
        [asked(drawn()), asked(drawn("blue"))], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    one = tiny.model.generate(**inputs, max_new_tokens=30, num_beams=1, do_sample=False)
    beams = tiny.model.generate(**inputs, max_new_tokens=30, num_beams=3, do_sample=False)
    several = tiny.model.generate(**inputs, max_new_tokens=5, num_beams=3, num_return_sequences=2, do_sample=False)
    assert beams.shape[0] == 2 and several.shape[0] == 4
    said = [tiny.processor.decode_text(row[inputs["input_ids"].shape[1] :].tolist())[0] for row in (one[0], beams[0])]
    assert said[0] == said[1], "what tiny says is far likelier than anything else"
    greedy, found = tiny.answer(drawn(), QUESTION), tiny.answer(drawn(), QUESTION, num_beams=3)
    assert found.text == greedy.text and len(found.objects) == len(greedy.objects) > 0
    for ours, theirs in zip(found.objects, greedy.objects, strict=True):
        assert np.array_equal(ours.mask, theirs.mask) and ours.score == pytest.approx(theirs.score, abs=1e-5)
    with pytest.raises(
        UserError, match="grounded generation keeps one sequence per prompt: leave num_return_sequences"
    ):
        tiny.answer(drawn(), QUESTION, num_return_sequences=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1}, "generation has no option 'temprature'.*temperature"),
        ({"temperature": -1}, "temperature: expected a number of 0 or more, not -1"),
        ({"temperature": float("nan")}, "temperature: expected a number of 0 or more, not nan"),
        ({"temperature": True}, "temperature: expected a number of 0 or more, not True"),
        ({"top_p": 0}, "top_p: expected a number above 0 and up to 1, not 0"),
        ({"top_k": 0.5}, "top_k: expected a whole number above 0, not 0.5"),
        ({"seed": -1, "top_p": 0.5}, "seed: expected a whole number of 0 or more, not -1"),
        ({"seed": 1}, "seed: nothing is drawn; give temperature"),
        ({"stop": ["a", ""]}, "stop: expected a text or several, none of them empty"),
        ({"stop": 5}, "stop: expected a text or several"),
    ],
)
def test_what_generation_cannot_do_is_refused(tiny: Any, options: dict[str, Any], message: str) -> None:
    for call in (tiny.answer, tiny.stream):
        with pytest.raises(UserError, match=message):
            call("What?", **options)
    with pytest.raises(UserError, match=message):
        tiny.chat(**options)


def test_drawing_needs_no_words_about_it() -> None:
    assert decoding_of({}).options == {"do_sample": False}
    drawn_ones = {"do_sample": True, "temperature": 1.0, "top_p": 0.5, "top_k": 0}
    assert decoding_of({"top_p": 0.5}).options == drawn_ones
    assert decoding_of({"temperature": 0, "repetition_penalty": 1.1}).options == {
        "do_sample": False,
        "repetition_penalty": 1.1,
    }


# ---------------------------------------------------------------- word by word
def test_streamed_words_are_the_answer(tiny: Any) -> None:
    whole = tiny.answer(drawn(), QUESTION)
    *words, last = tiny.stream(drawn(), QUESTION)
    assert isinstance(last, Answer) and last.text == whole.text == "".join(words)
    assert len(words) > 3 and len(last.objects) == len(whole.objects) == 1
    assert (last.objects[0].mask == whole.objects[0].mask).all()
    *words, last = tiny.stream(drawn(), QUESTION, stop="circle[/tag]")
    assert "".join(words) == last.text and not last.text.endswith("circle")
    options = {"temperature": 2.0, "seed": 4, "max_new_tokens": 10}
    assert "".join([*tiny.stream("Hi", **options)][:-1]) == tiny.answer("Hi", **options).text


def test_leaving_a_stream_ends_the_generation(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    decoder = tiny.model.language_model.get_decoder()
    real = decoder.forward

    def stepping(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(decoder, "forward", stepping)
    pieces = tiny.stream("Hi", min_new_tokens=100, max_new_tokens=100, temperature=3.0, seed=0)
    next(pieces)
    pieces.close()
    assert steps < 100
    assert not [thread for thread in threading.enumerate() if thread.name == "ullava-stream"]


def test_an_error_of_the_generation_reaches_the_reader(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr(tiny.model, "generate_grounded", broken)
    with pytest.raises(RuntimeError, match="out of memory, say"):
        list(tiny.stream("Hi"))


def test_words_are_shown_when_they_stay() -> None:
    decoding = Decoding(stop=("END now",))
    texts = ["", "Su", "Sure", "Sure. a", "Sure. all E", "Sure. all END", "Sure. all END now"]
    assert [decoding.settled(text) for text in texts] == ["", "", "", "Sure.", "Sure. all", "Sure. all", "Sure."]
    assert decoding.cut(texts[-1]) == ("Sure. all", True)
