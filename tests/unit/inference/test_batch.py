"""Questions from files, answers to files, resuming."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ullava.data.loading.encode import read_images
from ullava.errors import DataError, SampleError, UserError
from ullava.geometry import rle_decode
from ullava.inference.answering import answer_all, answer_one
from ullava.inference.batch import Question, check_images, one_prompt, read_questions
from ullava.inference.export import answer_to_json
from ullava.structures import Answer, GroundedObject, Sample

SETTINGS = {"model": "fake", "max_new_tokens": 8}


class Fake:
    """Answers every sample with one square in its first image; counts what it was asked."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.asked: list[list[str]] = []
        self.fail_at = fail_at

    def answer_samples(self, samples: Sequence[Sample], *, max_new_tokens: int) -> list[Answer]:
        if self.fail_at is not None and len(self.asked) == self.fail_at:
            raise KeyboardInterrupt
        self.asked.append([sample.turns[0].question for sample in samples])
        return [self._answer(sample) for sample in samples]

    def _answer(self, sample: Sample) -> Answer:
        if not sample.images:
            return Answer("seven", new_tokens=1)
        mask = np.zeros((40, 50), bool)
        mask[5:15, 10:30] = True
        text = "Sure. Mask [SEG]; Location [LOC]; [tag]square[/tag]."
        return Answer(text, (GroundedObject("square", (6, 51), mask, (10.0, 5.0, 30.0, 15.0), 0.75, 0.75, 0.5),))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(path)
    return path


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def test_an_answer_as_json_gives_the_mask_back(image: Path) -> None:
    answer = Fake().answer_samples([Question("q", (image,), "where?").sample()], max_new_tokens=8)[0]
    record = json.loads(json.dumps(answer_to_json(answer)))
    thing = record["objects"][0]
    assert record["text"][slice(*thing["span"])].startswith("Mask [SEG]")
    assert "[SEG]" not in record["plain_text"]
    assert thing["box_xyxy_px"] == [10.0, 5.0, 30.0, 15.0]
    assert (thing["score"], thing["mask_score"], thing["box_score"]) == (0.75, 0.75, 0.5)
    assert np.array_equal(rle_decode(thing["mask"]), answer.objects[0].mask)


def test_questions_are_read_with_paths_beside_the_file(tmp_path: Path, image: Path) -> None:
    path = jsonl(
        tmp_path / "q.jsonl",
        {"image": "a.png", "prompt": "one"},
        "",
        {"image": ["a.png", "a.png"], "prompt": "two", "id": "pair"},
        {"prompt": "3 + 4?", "id": 12},
    )
    first, second, third = read_questions(path)
    assert (first.id, first.images) == ("000001", (image,))
    assert second.sample().turns[0].question == "<image><image>two"
    assert (third.id, third.images) == ("12", ())


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"image": "a.png", "prompt": "x"', "not JSON"),
        ('["a.png", "x"]', "must be an object"),
        ('{"image": "a.png", "promt": "x"}', "did you mean 'prompt'"),
        ('{"image": "a.png"}', "prompt is missing"),
        ('{"image": "a.png", "prompt": "  "}', "prompt: is empty"),
        ('{"image": "a.png", "prompt": 7}', "expected text"),
        ('{"image": 7, "prompt": "x"}', "image: expected"),
        ('{"image": "a.png", "prompt": "<image><image>x"}', "2 <image> markers for 1 images"),
        ('{"image": "a.png", "prompt": "x", "id": "../x"}', "plain file name"),
        ('{"image": "a.png", "prompt": "x", "id": "ok"}', "already that of line 1"),
        ('{"image": "gone.png", "prompt": "x"}', "image: no such file: "),
        ('{"video": "gone.mp4", "prompt": "x"}', "video: no such file: "),
        ('{"image": "a.png", "prompt": "Segment [SEG]."}', "prompt: holds the special token [SEG]"),
        ('{"image": "a.png", "prompt": "x\\ud800"}', "prompt: holds a null character, or half of a character"),
        ('{"image": "a\\u0000.png", "prompt": "x"}', "image: holds a null character, or half of a character"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, image: Path, line: str, complaint: str) -> None:
    path = jsonl(tmp_path / "q.jsonl", {"image": "a.png", "prompt": "x", "id": "ok"}, line)
    with pytest.raises(DataError) as caught:
        read_questions(path)
    assert any(problem.startswith(f"{path}:2: ") and complaint in problem for problem in caught.value.problems)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_questions_of_other_programs_are_read(tmp_path: Path, image: Path, newline: str) -> None:
    lines = ['{"image": "a.png", "prompt": "How\u2028many\u0085shapes?"}', '{"prompt": "two"}']
    path = tmp_path / "q.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + newline.join(lines).encode())
    first, second = read_questions(path)
    assert (first.prompt, first.where) == ("How\u2028many\u0085shapes?", f"{path}:1")
    assert (second.id, second.where) == ("000002", f"{path}:2")


def test_all_bad_lines_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_questions(
            jsonl(tmp_path / "q.jsonl", "{", {"prompt": "ok"}, "}", {"prompt": "[LOC]", "image": "gone.png"})
        )
    assert len(caught.value.problems) == 4


def test_question_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_questions(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no question"):
        read_questions(jsonl(tmp_path / "empty.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "caf\xe9"}')
    with pytest.raises(DataError, match="UTF-8"):
        read_questions(tmp_path / "latin.jsonl")


def test_one_prompt_makes_a_question_for_each_image(tmp_path: Path) -> None:
    questions = one_prompt([tmp_path / "x" / "a b.png", tmp_path / "y" / "a b.png"], "where?")
    assert [question.id for question in questions] == ["a-b", "a-b-2"]
    assert one_prompt([], "3 + 4?")[0].images == ()
    with pytest.raises(UserError, match="empty"):
        one_prompt([tmp_path / "a.png"], " ")


def test_every_broken_image_is_named(tmp_path: Path, image: Path) -> None:
    empty, text, cut = tmp_path / "empty.jpg", tmp_path / "text.jpg", tmp_path / "cut.png"
    empty.touch()
    text.write_text("not an image")
    cut.write_bytes(image.read_bytes()[:60])
    questions = one_prompt([image, empty, text, cut, tmp_path / "gone.jpg"], "where?")
    with pytest.raises(DataError) as caught:
        check_images(questions)
    named = [problem.split(":")[0] for problem in caught.value.problems]
    assert named == [str(path) for path in (empty, text, cut, tmp_path / "gone.jpg")]


def test_one_answer_writes_json_and_overlay(tmp_path: Path, image: Path) -> None:
    out = tmp_path / "deep" / "out"
    record = answer_one(Fake(), one_prompt([image], "where?")[0], out, SETTINGS)
    assert json.loads((out / "answer.json").read_text()) == record
    assert record["model"] == "fake" and record["images"] == [str(image)]
    assert Image.open(out / "overlay.png").size == (500, 400)
    assert sorted(path.name for path in out.iterdir()) == ["answer.json", "overlay.png"]


def test_a_batch_is_resumed_where_it_stopped(tmp_path: Path, image: Path) -> None:
    questions = [Question(f"q{number}", (image,), f"where is {number}?") for number in range(5)]
    out = tmp_path / "out"
    seen: list[dict[str, Any]] = []
    with pytest.raises(KeyboardInterrupt):
        answer_all(Fake(fail_at=1), questions, out, SETTINGS, 2, seen.append)
    assert [record["id"] for record in seen] == ["q0", "q1"]
    with (out / "answers.jsonl.part").open("a") as file:
        file.write('{"id": "q2", "ima')
    second = Fake()
    answer_all(second, questions, out, SETTINGS, 2, seen.append)
    assert second.asked == [["<image>where is 2?", "<image>where is 3?"], ["<image>where is 4?"]]
    rows = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [question.id for question in questions]
    assert not (out / "answers.jsonl.part").exists()
    assert len(list((out / "overlays").iterdir())) == 5
    third = Fake()
    answer_all(third, questions, out, SETTINGS, 2, seen.append)
    assert third.asked == []
    more = [*questions, Question("q5", (), "3 + 4?")]
    answer_all(third, more, out, SETTINGS, 2, seen.append)
    assert third.asked == [["3 + 4?"]]
    assert len((out / "answers.jsonl").read_text().splitlines()) == 6


def test_images_of_the_next_batch_are_read_beside_the_answers(tmp_path: Path, image: Path) -> None:
    """An unreadable one costs none of the answers before it, as if each was read in its turn."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(image.read_bytes()[:60])
    questions = [Question(f"q{number}", (path,), "where?") for number, path in enumerate((image, image, broken))]

    class Reading(Fake):
        def answer_samples(self, samples: Sequence[Sample], *, max_new_tokens: int) -> list[Answer]:
            for sample in samples:
                (pixels,) = read_images(sample.images, sample.name)
                assert pixels.shape == (40, 50, 3)
            return super().answer_samples(samples, max_new_tokens=max_new_tokens)

    seen: list[dict[str, Any]] = []
    with pytest.raises(SampleError, match=r"q2: .*broken\.png: cannot be decoded"):
        answer_all(Reading(), questions, tmp_path / "out", SETTINGS, 1, seen.append)
    assert [record["id"] for record in seen] == ["q0", "q1"]
    assert len((tmp_path / "out" / "answers.jsonl.part").read_text().splitlines()) == 2
    assert sorted(path.stem for path in (tmp_path / "out" / "overlays").iterdir()) == ["q0", "q1"]


@pytest.mark.parametrize("change", [{"model": "other"}, {"max_new_tokens": 9}])
def test_answers_of_another_run_are_not_mixed_in(tmp_path: Path, image: Path, change: dict[str, Any]) -> None:
    out = tmp_path / "out"
    question = Question("q", (image,), "where?")
    answer_all(Fake(), [question], out, SETTINGS, 2, lambda record: None)
    with pytest.raises(UserError, match="answers.jsonl:1: .*another --out"):
        answer_all(Fake(), [question], out, {**SETTINGS, **change}, 2, lambda record: None)
    with pytest.raises(UserError, match="another --out"):
        answer_all(Fake(), [Question("q", (image,), "who?")], out, SETTINGS, 2, lambda record: None)


def test_a_foreign_answers_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text("[1, 2]\n")
    with pytest.raises(DataError, match="answers.jsonl:1"):
        answer_all(Fake(), [Question("q", (), "x")], tmp_path, SETTINGS, 2, lambda record: None)
    assert (tmp_path / "answers.jsonl").read_text() == "[1, 2]\n"


@pytest.mark.parametrize("token", ["[SEG]", "[LOC]", "[tag]"])
def test_special_tokens_are_refused_where_the_question_stands(tmp_path: Path, token: str) -> None:
    path = jsonl(tmp_path / "q.jsonl", {"prompt": "fine"}, {"prompt": f"Say {token}."})
    with pytest.raises(DataError) as caught:
        read_questions(path)
    assert list(caught.value.problems) == [f"{path}:2: prompt: holds the special token {token}"]
    with pytest.raises(UserError, match="--prompt: holds the special token"):
        one_prompt([], token)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\xe9\n", r":1: is not an answer of ours"),
        (b"[" * 100_000 + b"\n", r":1: is not an answer of ours"),
        (b"[1]\n", r":1: is not an answer of ours"),
        (b'{"id": "a", "text": null, "objects": []}\n', r":1: is not an answer of ours"),
        (b"TWICE", r":2: answers 'a' a second time"),
    ],
)
def test_damaged_answers_are_named_and_left_alone(tmp_path: Path, content: bytes, complaint: str) -> None:
    questions = [Question("a", (), "one?"), Question("b", (), "two?")]
    answer_all(Fake(), questions[:1], tmp_path, SETTINGS, 1, lambda record: None)
    line = (tmp_path / "answers.jsonl").read_bytes()
    content = line * 2 if content == b"TWICE" else content
    (tmp_path / "answers.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        answer_all(Fake(), questions, tmp_path, SETTINGS, 1, lambda record: None)
    assert (tmp_path / "answers.jsonl").read_bytes() == content


def test_a_folder_in_the_place_of_the_answers_is_named(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").mkdir()
    with pytest.raises(DataError, match=r"answers.jsonl: is not a file"):
        answer_all(Fake(), [Question("a", (), "one?")], tmp_path, SETTINGS, 1, lambda record: None)


def test_what_a_finished_file_has_behind_its_last_line_is_dropped(tmp_path: Path) -> None:
    questions = [Question("a", (), "one?"), Question("b", (), "two?")]
    answer_all(Fake(), questions, tmp_path, SETTINGS, 1, lambda record: None)
    whole = (tmp_path / "answers.jsonl").read_bytes()
    (tmp_path / "answers.jsonl").write_bytes(whole + b'{"id": "c", ')
    answer_all(Fake(), questions, tmp_path, SETTINGS, 1, lambda record: None)
    assert (tmp_path / "answers.jsonl").read_bytes() == whole
