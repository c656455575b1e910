"""Captions, facts and short answers: hand-made cases and a slow CIDEr."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ullava.evaluation.metrics.answers import ReadAnswers, ShortAnswers
from ullava.evaluation.metrics.captions import Captions, bleu, cider_d
from ullava.synthetic.facts import check_facts
from ullava.text.normalization import normal_answer, words

FEW: dict[str, Any] = {
    "count": 2,
    "objects": [
        {"role": "listed", "colour": "red", "shape": "circle", "size": "small"},
        {"role": "listed", "colour": "blue", "shape": "star", "size": "large"},
    ],
}
MANY: dict[str, Any] = {
    "count": 5,
    "objects": [
        {"role": "largest", "colour": "red", "shape": "circle"},
        {"role": "leftmost", "colour": "blue", "shape": "star", "size": "small"},
    ],
}


# ---------------------------------------------------------------- words
def test_tokens() -> None:
    assert words("There's a Red circle, 2 stars -- left.") == ["there's", "a", "red", "circle", "2", "stars", "left"]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The two.", "2"),
        ("2", "2"),
        (" Yes! ", "yes"),
        ("A", "a"),
        ("3.5 metres", "3.5 metres"),
        ("-4", "-4"),
        ("don’t", "don't"),
        ("a dog, the cat", "dog cat"),
        ("", ""),
    ],
)
def test_normal_answers(text: str, normal: str) -> None:
    assert normal_answer(text) == normal


# ---------------------------------------------------------------- short answers
def test_accuracy_by_hand() -> None:
    metric = ShortAnswers()
    metric.update("Two.", ["2", "two"], "count")
    metric.update("three", ["2", "two"], "count")
    metric.update("Yes.", ["yes"], "exists")
    metric.update("", ["yes"])
    assert metric.compute() == {"accuracy": 50.0}
    assert metric.details() == {"count": 50.0, "exists": 100.0}


def test_a_question_needs_an_accepted_answer() -> None:
    with pytest.raises(ValueError, match="accepted"):
        ShortAnswers().update("yes", ["?"])


# ---------------------------------------------------------------- BLEU
def test_bleu_by_hand() -> None:
    caption = "the cat sat on the mat".split()
    reference = "the cat sat on a mat".split()
    # 5/6, 3/5, 2/4, 1/3; lengths are equal.
    expected = (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert bleu([caption], [[reference]]) == pytest.approx(expected)


def test_bleu_clips_and_punishes_short_captions() -> None:
    assert bleu([["the", "the", "the", "the"]], [[["the", "cat"]]], order=1) == pytest.approx(1 / 4)
    assert bleu([["a", "b"]], [[["a", "b", "c", "d"]]], order=2) == pytest.approx(math.exp(1 - 4 / 2))
    # Of the references of length 3 and 1, the nearer to 2 by length is the shorter one: no penalty.
    assert bleu([["a", "b"]], [[["a", "b", "c"], ["a"]]], order=1) == pytest.approx(1.0)


def test_bleu_without_a_match_is_zero() -> None:
    assert bleu([["a", "b", "c", "d"]], [[["a", "x", "c", "y"]]]) == 0.0


# ---------------------------------------------------------------- CIDEr
def slow_cider(captions: list[list[str]], references: list[list[list[str]]]) -> list[float]:
    def grams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
        return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]

    scores = []
    for caption, texts in zip(captions, references, strict=True):
        total = 0.0
        for text in texts:
            for n in range(1, 5):
                universe = sorted({*grams(caption, n), *grams(text, n)})
                idf = np.array(
                    [
                        math.log(len(references) / max(1, sum(any(g in grams(t, n) for t in ts) for ts in references)))
                        for g in universe
                    ]
                )
                c = np.array([grams(caption, n).count(g) for g in universe]) * idf
                r = np.array([grams(text, n).count(g) for g in universe]) * idf
                norm = np.linalg.norm(c) * np.linalg.norm(r)
                if norm > 0:
                    penalty = math.exp(-((len(caption) - len(text)) ** 2) / 72)
                    total += float(np.minimum(c, r) @ r) / norm * penalty
        scores.append(10 * total / 4 / len(texts))
    return scores


def test_cider_by_hand() -> None:
    # ln(2 / 1) weighs every 1-gram alike; one of two words matches: cosine 1/2; no longer n-gram matches.
    assert cider_d([["a", "x"], ["c", "d"]], [[["a", "b"]], [["c", "d"]]]) == pytest.approx([10 / 4 / 2, 10 / 2])


def test_cider_against_slow_implementation() -> None:
    rng = np.random.default_rng(0)
    letters = list("abcdefg")
    draw = lambda: [letters[i] for i in rng.integers(0, 7, int(rng.integers(3, 9)))]  # noqa: E731
    captions = [draw() for _ in range(8)]
    references = [[draw() for _ in range(int(rng.integers(1, 4)))] for _ in range(8)]
    references[0][0] = list(captions[0])
    assert cider_d(captions, references) == pytest.approx(slow_cider(captions, references))


def test_captions_together() -> None:
    metric = Captions()
    metric.update("There are two shapes.", ["there are two shapes"], check_facts("There are two shapes.", FEW))
    metric.update("a blue circle is here", ["a big blue star is over here"])
    figures = metric.compute()
    assert figures["facts"] == 100.0
    assert figures["facts_complete"] == 0.0
    assert 0 < figures["CIDEr"] < 1000
    assert figures["BLEU-4"] > 0


# ---------------------------------------------------------------- facts
@pytest.mark.parametrize(
    ("caption", "facts", "right", "complete"),
    [
        ("There are two shapes: a small red circle and a large blue star.", FEW, True, True),
        ("There are two shapes: a large blue star and a small red circle.", FEW, True, True),
        ("There are 2 shapes.", FEW, True, False),
        ("A red circle.", FEW, True, False),
        ("There are three shapes: a small red circle and a large blue star.", FEW, False, False),
        ("There are two shapes: a small blue circle and a large blue star.", FEW, False, False),
        ("There are two shapes: a large red circle and a large blue star.", FEW, False, False),
        ("Two shapes: a red circle and a red circle.", FEW, False, False),
        ("A circle and a small red circle.", FEW, False, False),
        ("A star and a small red circle.", FEW, True, False),
        ("Something blue.", FEW, True, False),
        ("Something green.", FEW, False, False),
        ("A nice image.", FEW, False, False),
        ("", FEW, False, False),
        ("There are five shapes. The largest is a red circle; the leftmost is a small blue star.", MANY, True, True),
        ("There are five shapes. The largest is a blue star; the leftmost is a small blue star.", MANY, False, False),
        ("There are five shapes. The rightmost is a red circle.", MANY, False, False),
        ("There are five shapes. The largest is a large striped red circle.", MANY, True, False),
    ],
)
def test_facts(caption: str, facts: dict[str, Any], right: bool, complete: bool) -> None:
    check = check_facts(caption, facts)
    assert (check.right, check.complete) == (right, complete)


def test_facts_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match="count"):
        check_facts("a", {"objects": []})


def test_perplexity_is_over_all_tokens_of_what_was_read() -> None:
    metric = ReadAnswers()
    for nats, tokens in ((2.0, 1), (1.0, 5)):
        row = metric.update("yes", ["no"])
        row["nats"], row["tokens"] = nats, tokens
    metric.update("yes", ["yes"])  # of before the answers were read
    assert metric.compute() == pytest.approx({"accuracy": 100 / 3, "perplexity": math.exp(0.5)})
    assert "perplexity" not in ReadAnswers([{"right": True, "kind": ""}]).compute()
    assert math.isfinite(ReadAnswers([{"right": True, "kind": "", "nats": 1e9, "tokens": 1}]).compute()["perplexity"])
