from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from ullava.config.schema import DatasetEntry
from ullava.errors import SampleError


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def talk(*messages: str, **fields: Any) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[k % 2], "value": message} for k, message in enumerate(messages)]
    return {"id": "1", "image": "a.jpg", "conversations": turns} | fields


def test_the_marker_moves_to_the_front(build):
    dataset = build("llava_json", [talk("What is it?\n<image>", "A dog.", "Where?", "Here.")])
    sample = dataset.sample(0, rng())
    assert [(turn.question, turn.answer) for turn in sample.turns] == [
        ("<image>What is it?", "A dog."),
        ("Where?", "Here."),
    ]
    queries = dataset.queries(0)
    assert [query.turns[0].question for query in queries] == ["<image>What is it?", "<image>Where?"]
    assert queries[1].truth == {"answer": "Here."}


def test_text_alone_has_no_image(build):
    record = talk("How much is 1 + 1?", "2.")
    del record["image"]
    sample = build("llava_json", [record], task="text").sample(0, rng())
    assert (sample.images, sample.turns[0].question, sample.task) == ((), "How much is 1 + 1?", "text")


def test_a_conversation_keeps_its_beginning_a_quiz_is_drawn_from(build):
    words = [word for k in range(6) for word in (f"{'<image>' if k == 0 else ''}q{k}", f"a{k}")]
    plain = build("llava_json", [talk(*words)], DatasetEntry(turns=2))
    assert {plain.sample(0, np.random.default_rng(s)).turns[1].question for s in range(9)} == {"q1"}
    quiz = build("llava_json", [talk(*words, answer_type=["x"] * 6)], DatasetEntry(turns=2))
    seen = set()
    for seed in range(40):
        first, second = quiz.sample(0, np.random.default_rng(seed)).turns
        assert first.question.startswith("<image>q") and "<image>" not in second.question
        assert first.question[-1] == first.answer[-1]
        seen.add(first.question)
    assert len(seen) == 6


def test_truth_is_dealt_out_to_questions(build):
    words = ["<image>q0", "a0", "q1", "a1"]
    record = talk(*words, accepted=[["a0", "b0"], ["a1"]], answer_type=["colour", "count"])
    first, second = build("llava_json", [record]).queries(0)
    assert first.truth == {"answer": "a0", "accepted": ["a0", "b0"], "answer_type": "colour"}
    assert second.truth == {"answer": "a1", "accepted": ["a1"], "answer_type": "count"}
    record = talk(*words[:2], accepted=["a0"], answer_type="colour", facts={"count": 3})
    truth = build("llava_json", [record]).queries(0)[0].truth
    assert truth == {"answer": "a0", "accepted": ["a0"], "answer_type": "colour", "facts": {"count": 3}}


def test_caption_templates_take_the_place_of_the_question(build):
    dataset = build("llava_json", [talk("<image>", "A dog.")], task="caption", template="CAP.json")
    assert dataset.queries(0)[0].turns[0].question == "<image>Describe the picture."
    assert len({dataset.sample(0, np.random.default_rng(s)).turns[0].question for s in range(40)}) > 2


def test_several_images_keep_their_places(build):
    record = talk("<image> or <image>?", "The first.", image=["a.jpg", "b.jpg"])
    sample = build("llava_json", [record]).sample(0, rng())
    assert sample.turns[0].question == "<image> or <image>?"
    assert [path.name for path in sample.images] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (talk("What?", "A dog."), "0 <image> markers in the questions, but 1 images"),
        (talk("<image><image>What?", "A dog."), "2 <image> markers in the questions, but 1 images"),
        (talk("<image>What?", "A dog.", image=None), "1 <image> markers in the questions, but 0 images"),
        (talk("What?", "A.", "<image>Where?", "B."), "<image> has to stand in the first question"),
        (talk("<image>", "A."), "the first question asks nothing"),
        (talk("<image>What?"), "'conversations' has 1 messages"),
        (talk(), "'conversations' has 0 messages"),
        (talk("<image>What?", " "), r"conversations\[1\]: 'value' has to be a string with something in it"),
        (talk("<image>What?", "A.", conversations=[{"from": "Human", "value": "a"}] * 2), "did you mean 'human'"),
        (
            talk("<image>What?", "A.", conversations=[{"from": "human", "value": "a"}] * 2),
            r"conversations\[1\]: 'from' is 'human', but questions",
        ),
        (talk("<image>What?", "A.", accepted=[["a"], ["b"]]), "'accepted' has 2 entries for 1 questions"),
        (talk("<image>What?", "A.", accepted=[]), "'accepted'"),
        (talk("<image>What?", "A.", answer_type=["a", "b"]), "'answer_type' has to be a string, or a list of 1"),
        (talk("<image>What?", "A.", image=3), "'image' has to be a string"),
    ],
)
def test_wrong_conversations_are_named(build, record, message):
    with pytest.raises(SampleError, match=message) as caught:
        build("llava_json", [talk("<image>a", "b"), deepcopy(record)]).queries(1)
    assert "notes.json:1: record 1" in caught.value.reason


def test_things_are_everything_in_the_image(build):
    square = {"size": [4, 6], "counts": [0, 8, 16]}
    record = talk("<image>What is it?", "Two.", height=4, width=6)
    record["things"] = [{"words": "red bar", "segmentation": square}, {"words": "dot", "bbox": [4, 1, 1, 2]}]
    bar, dot = build("llava_json", [record]).sample(0, rng()).things
    assert (bar.phrase, int(bar.mask.sum()), bar.box_xyxy_px) == ("red bar", 8, (0.0, 0.0, 2.0, 4.0))
    assert (dot.phrase, dot.mask, dot.box_xyxy_px) == ("dot", None, (4.0, 1.0, 5.0, 3.0))
    assert build("llava_json", [talk("<image>What is it?", "Two.")]).sample(0, rng()).things == ()


@pytest.mark.parametrize(
    ("things", "complaint"),
    [
        ([{"bbox": [0, 0, 1, 1]}], "no 'words'"),
        ([{"words": "dot", "bbox": [5, 0, 3, 1]}], "leaves the image"),
        ([{"words": "dot"}], "no 'bbox'"),
        ("dot", "'things' has to be a list"),
    ],
)
def test_a_wrong_thing_is_refused(build, things, complaint):
    record = talk("<image>What is it?", "Two.", height=4, width=6, things=things)
    with pytest.raises(SampleError, match=complaint):
        build("llava_json", [record]).sample(0, rng())


@pytest.mark.parametrize(
    ("facts", "complaint"),
    [
        ([1], "'facts' has to be an object"),
        ({"objects": []}, "facts: no 'count'"),
        ({"count": "four", "objects": []}, "facts: 'count' has to be a whole number"),
        ({"count": 1, "objects": {}}, "facts: 'objects' has to be a list"),
        ({"count": 1, "objects": [5]}, r"facts: 'objects\[0\]' has to be an object"),
        ({"count": 1, "objects": [{"colour": [1]}]}, r"facts: objects\[0\]: has to hold words"),
    ],
)
def test_facts_of_another_form_are_named(build, facts, complaint):
    dataset = build("llava_json", [talk("<image>What?", "A dog.", facts=facts)], task="caption")
    with pytest.raises(SampleError, match=complaint):
        dataset.queries(0)
