"""Questions about videos: ``ullava predict --video``, JSONL with videos, and ``answer(question, video=...)``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ullava.errors import DataError, UserError
from ullava.inference.batch import Question, check_images, one_prompt, read_questions
from ullava.inference.load import load
from ullava.structures import Clip


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two GIFs and an image."""
    folder = tmp_path_factory.mktemp("films")
    for seed, name in enumerate(("a.gif", "b.gif")):
        noise = np.random.default_rng(seed).integers(0, 256, (5, 24, 32, 3), dtype=np.uint8)
        frames = [Image.fromarray(frame) for frame in noise]
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    Image.fromarray(noise[0]).save(folder / "c.png")
    return folder


def test_a_question_about_a_video_in_python(random_model: Path, films: Path) -> None:
    predictor = load(random_model, device="cpu")
    answer = predictor.answer("What moves?", video=films / "a.gif", max_new_tokens=5)
    assert 0 < answer.new_tokens <= 5 and answer.objects == ()
    marked = predictor.answer("What moves?<video>", video=str(films / "a.gif"), max_new_tokens=5)
    assert marked.text != "" or marked.new_tokens
    same = predictor.answer(None, "What moves?", video=[Clip(films / "a.gif")], max_new_tokens=5)
    assert same == answer
    both = predictor.answer(films / "c.png", "And this?", video=films / "b.gif", max_new_tokens=2)
    assert both.new_tokens <= 2
    with pytest.raises(UserError, match="the question is empty"):
        predictor.answer(films / "c.png", video=films / "a.gif")
    with pytest.raises(DataError, match="none.mp4: no such video"):
        predictor.answer("What moves?", video=films / "none.mp4")


def test_a_batch_answers_each_video_as_if_it_were_alone(random_model: Path, films: Path) -> None:
    predictor = load(random_model, device="cpu")
    questions = [
        Question("1", (), "What moves?", (films / "a.gif",)),
        Question("2", (films / "c.png",), "What is it?"),
        Question("3", (), "What moves?", (films / "b.gif",)),
        Question("4", (), "Why?", (films / "a.gif",)),
    ]
    samples = [question.sample() for question in questions]
    together = predictor.answer_samples(samples, max_new_tokens=4)
    assert [predictor.answer_samples([sample], max_new_tokens=4)[0].text for sample in samples] == [
        answer.text for answer in together
    ]


def test_the_command_answers_about_videos(command: Any, random_model: Path, films: Path, tmp_path: Path) -> None:
    line = ["predict", "--model", str(random_model), "--device", "cpu", "--max-new-tokens", "3", "--prompt", "What?"]
    code, out, _ = command(*line, "--video", str(films / "a.gif"), "--json", "--out", str(tmp_path / "one"))
    record = json.loads(out)
    assert code == 0 and record["videos"] == [str(films / "a.gif")] and record["images"] == []
    assert json.loads((tmp_path / "one" / "answer.json").read_text()) == record
    code, out, _ = command(*line, "--video", str(films / "a.gif"), str(films / "b.gif"), "--out", str(tmp_path / "two"))
    written = [json.loads(text) for text in (tmp_path / "two" / "answers.jsonl").read_text().splitlines()]
    assert code == 0 and [record["id"] for record in written] == ["a", "b"]
    (tmp_path / "empty.mp4").touch()
    code, _, err = command(*line, "--video", str(tmp_path / "empty.mp4"))
    assert code == 2 and err == f"error: {tmp_path / 'empty.mp4'}: the file is empty\n"


def test_the_command_says_how_things_in_videos_are_masked(
    command: Any, random_model: Path, films: Path, tmp_path: Path
) -> None:
    line = ["predict", "--model", str(random_model), "--device", "cpu", "--max-new-tokens", "3", "--no-overlays"]
    asked = [*line, "--prompt", "Segment it.", "--video", str(films / "a.gif")]
    code, _, err = command(*asked, "--clip-masks", "memory")
    assert code == 2 and err.splitlines()[-1].startswith("error: mask.kind sam has no memory of frames")
    code, _, err = command(*asked, "--prompt-frame", "5")
    assert code == 2 and err == f"error: {films / 'a.gif'}: prompt_frame 5: the clip has frames 0 to 4\n"
    code, _, err = command(*line, "--prompt", "Segment it.", "--prompt-frame", "0")
    assert code == 2 and "give --video FILE" in err
    (tmp_path / "asked.jsonl").write_text(
        "".join(json.dumps({"video": str(films / name), "prompt": "Segment it."}) + "\n" for name in ("a.gif", "b.gif"))
    )
    out = tmp_path / "answers"
    code, _, err = command(*line, "--input", str(tmp_path / "asked.jsonl"), "--clip-masks", "frames", "--out", str(out))
    records = [json.loads(text) for text in (out / "answers.jsonl").read_text().splitlines()]
    assert code == 0 and [record["clip_masks"] for record in records] == ["frames", "frames"]
    code, _, err = command(*line, "--input", str(tmp_path / "asked.jsonl"), "--clip-masks", "none", "--out", str(out))
    assert code == 2 and "another model or setting" in err


def test_a_file_of_questions_may_name_videos(films: Path, write: Any) -> None:
    lines = [
        {"video": "a.gif", "prompt": "What?"},
        {"video": ["a.gif", "b.gif"], "image": "c.png", "prompt": "Compare.", "id": "x"},
        {"prompt": "Hello."},
    ]
    path = films / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    questions = read_questions(path)
    check_images(questions)
    assert [question.videos for question in questions] == [
        (films / "a.gif",),
        (films / "a.gif", films / "b.gif"),
        (),
    ]
    assert questions[1].sample().turns[0].question == "<image><video><video>Compare."
    bad = [{"video": 3, "prompt": "What?"}, {"vdeo": "a.gif", "prompt": "What?"}, {"prompt": "<video>What?"}]
    with pytest.raises(DataError) as caught:
        read_questions(write("bad.jsonl", "\n".join(map(json.dumps, bad))))
    assert [problem.split(": ", 1)[1] for problem in caught.value.problems] == [
        "video: expected a file name, a list of file names or null",
        "unknown key 'vdeo'; did you mean 'video'?",
        "prompt: has 1 <video> markers for 0 videos (give none, or one for each)",
    ]


def test_broken_videos_are_found_before_the_work_begins(films: Path, tmp_path: Path) -> None:
    (tmp_path / "film.avi").write_bytes(b"RIFF")
    questions = one_prompt([], "What?", [films / "a.gif", tmp_path / "film.avi", tmp_path / "none.gif"])
    assert [question.id for question in questions] == ["a", "film", "none"]
    with pytest.raises(DataError) as caught:
        check_images(questions)
    assert [problem.split(": ", 1)[1] for problem in caught.value.problems] == [
        "not a video of a known format (mp4, avi, gif)",
        "no such video",
    ]
