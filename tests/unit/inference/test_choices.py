"""What a vision encoder chose for a question comes with the answer, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tests.unit.modeling.conftest import build_small, grounded_sample, make_image

from ullava.inference.export import answer_to_json
from ullava.inference.predictor import Predictor
from ullava.modeling.processing.sample_rules import question_sample
from ullava.structures import Sample


@pytest.fixture(scope="module")
def avg() -> Predictor:
    return Predictor(*build_small(("vision.strategy=avg", "vision.avg={text_slots: 6, heads: 4}")))


def levels(avg: Predictor) -> set[int]:
    return set(avg.model.vision.levels)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(make_image(number)).save(path)
    return paths


def questions(images: list[Path]) -> list[Sample]:
    one, two, three = images
    return [
        question_sample("Is it red?", [one]),
        question_sample("Say something.", []),
        question_sample("Which one?", [two, one, three]),
        question_sample("Where is the star?", [one]),
    ]


def test_each_row_has_what_was_chosen_for_its_own_images(avg: Predictor, images: list[Path]) -> None:
    asked = questions(images)
    together = [answer.chosen for answer in avg.answer_samples(asked, max_new_tokens=1)]
    assert [len(chosen.get("granularity", ())) for chosen in together] == [1, 0, 3, 1]
    assert {level for chosen in together for level in chosen.get("granularity", ())} <= levels(avg)
    assert [avg.answer_samples([sample], max_new_tokens=1)[0].chosen for sample in asked] == together


def test_a_forced_choice_is_told_too_and_counted_once_a_place(avg: Predictor, images: list[Path]) -> None:
    answers = avg.answer_samples(questions(images), max_new_tokens=1, overrides={"granularity": 4})
    assert [answer.chosen for answer in answers] == [
        {"granularity": (4,)}, {}, {"granularity": (4, 4, 4)}, {"granularity": (4,)},
    ]  # fmt: skip
    assert answer_to_json(answers[2])["chosen"] == {"granularity": [4, 4, 4]}
    assert "chosen" not in answer_to_json(answers[1])


def test_given_answers_tell_it_as_free_ones_do(avg: Predictor, images: list[Path]) -> None:
    sample = grounded_sample("a")
    given = Sample(sample.name, sample.dataset, sample.task, (images[0],), sample.turns)
    (answer,) = avg.teacher_forced([given])
    assert set(answer.chosen) == {"granularity"} and answer.chosen["granularity"][0] in levels(avg)


def test_a_vision_encoder_without_choices_tells_none(images: list[Path]) -> None:
    (answer,) = Predictor(*build_small()).answer_samples([question_sample("Red?", images[:1])], max_new_tokens=1)
    assert answer.chosen == {}
