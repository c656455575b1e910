"""``ullava predict`` from the command line to its files, on a small random model, and what it refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ullava.run_lock import hold

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = []
    for number, (height, width) in enumerate([(40, 60), (64, 48)]):
        path = tmp_path / f"image{number}.png"
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return paths


def test_one_question_writes_both_files(command: Command, random_model: Path, images: list[Path]) -> None:
    out = images[0].parent / "out"
    code, printed, _ = command(
        "predict", "--model", str(random_model), "--image", str(images[0]), "--prompt", "Segment the star.",
        "--out", str(out), "--max-new-tokens", "6", "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    assert sorted(path.name for path in out.iterdir()) == ["answer.json", "overlay.png"]
    record = json.loads((out / "answer.json").read_text())
    assert record["prompt"] == "Segment the star." and record["images"] == [str(images[0])]
    assert 0 < record["new_tokens"] <= 6
    assert str(out) in printed
    with Image.open(out / "overlay.png") as overlay:
        assert overlay.size == (60 * 8, 40 * 8)


def test_every_question_is_checked_before_the_first_is_answered(
    command: Command, random_model: Path, images: list[Path]
) -> None:
    folder = images[0].parent
    rows = [{"image": "image0.png", "prompt": "What?"}, {"image": "image1.png", "prompt": "long " * 60}]
    rows += [{"prompt": "word " * 90}]
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, printed, errors = command(
        "predict", "--model", str(random_model), "--input", str(folder / "q.jsonl"), "--json", "--batch-size", "1"
    )
    assert (code, printed) == (2, "")
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(told) == 2
    for number, line in zip((2, 3), told, strict=True):
        assert line.startswith(f"error: {folder / 'q.jsonl'}:{number}: ") and "more than max_length 200" in line


def test_json_is_all_that_is_printed_and_nothing_is_written(
    command: Command, random_model: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images[0].parent)
    before = sorted(Path().iterdir())
    code, printed, _ = command(
        "predict", "--model", str(random_model), "--image", str(images[0]), str(images[1]), "--prompt", "What?",
        "--json", "--max-new-tokens", "4",
    )  # fmt: skip
    assert code == 0
    assert [json.loads(line)["id"] for line in printed.splitlines()] == ["image0", "image1"]
    assert sorted(Path().iterdir()) == before


def test_a_batch_gives_what_single_questions_give(command: Command, random_model: Path, images: list[Path]) -> None:
    folder = images[0].parent
    rows = [
        {"image": "image0.png", "prompt": "Segment the star.", "id": "a"},
        {"image": "image1.png", "prompt": "What is shown in this image here?", "id": "b"},
        {"prompt": "3 + 4?", "id": "c"},
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = ["predict", "--model", str(random_model), "--max-new-tokens", "6"]
    assert command(*base, "--input", str(folder / "questions.jsonl"), "--out", str(folder / "many"))[0] == 0
    batch = [json.loads(line) for line in (folder / "many" / "answers.jsonl").read_text().splitlines()]
    assert [row["id"] for row in batch] == ["a", "b", "c"]
    assert sorted(path.name for path in (folder / "many" / "overlays").iterdir()) == ["a.png", "b.png"]
    for row, together in zip(rows, batch, strict=True):
        image = ["--image", str(folder / row["image"])] if "image" in row else []
        code, printed, _ = command(*base, *image, "--prompt", row["prompt"], "--json")
        assert code == 0
        assert json.loads(printed)["text"] == together["text"]


def test_a_model_that_wants_to_say_a_image_says_something_else(
    command: Command, random_model: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ullava.modeling.cores.core_spliced import SplicedCore

    plain = SplicedCore.logits

    def eager(self: SplicedCore, hidden: torch.Tensor) -> torch.Tensor:
        logits = plain(self, hidden)
        logits[..., self.config.image_patch_id] += 1e4
        return logits

    monkeypatch.setattr(SplicedCore, "logits", eager)
    code, printed, errors = command(
        "predict", "--model", str(random_model), "--image", str(images[0]), "--prompt", "x", "--json",
        "--max-new-tokens", "4",
    )  # fmt: skip
    assert code == 0, errors
    assert "<image_patch>" not in json.loads(printed)["text"]


def test_inputs_are_refused_before_anything_is_written(
    command: Command, random_model: Path, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "bad.jsonl").write_text('{"image": "image0.png", "prompt": "x"}\n{"image": \n')
    (tmp_path / "gone.jsonl").write_text('{"image": "nowhere.png", "prompt": "x"}\n')
    (tmp_path / "file").touch()
    image, out, model = str(images[0]), ["--out", str(tmp_path / "out")], ["--model", str(random_model)]
    cases: list[tuple[list[str], str]] = [
        (["--image", str(tmp_path / "none.jpg"), "--prompt", "x"], "none.jpg"),
        (["--image", str(tmp_path / "empty.jpg"), "--prompt", "x"], "empty"),
        (["--image", str(tmp_path / "text.jpg"), "--prompt", "x"], "not an image"),
        (["--image", str(tmp_path), "--prompt", "x"], str(tmp_path)),
        (["--input", str(tmp_path / "bad.jsonl")], "bad.jsonl:2"),
        (["--input", str(tmp_path / "gone.jsonl")], "nowhere.png"),
        (["--input", str(tmp_path / "none.jsonl")], "none.jsonl"),
        (["--image", image, "--prompt", "  "], "empty"),
        (["--image", image], "--prompt"),
        (["--image", image, "--prompt", "x", "--input", str(tmp_path / "bad.jsonl")], "--input"),
        (["--image", image, "--prompt", "x", "--prompt", "y"], "--prompt is given 2 times"),
        (["--video", "a.mp4", "--prompt", "x"], "video"),
        (["--image", image, "--prompt", "x", "--device", "toaster"], "toaster"),
        (["--image", image, "--prompt", "x", "--batch-size", "0"], "--batch-size"),
        (["--image", image, "--prompt", "x", "--max-new-tokens", "many"], "--max-new-tokens"),
        (["--image", image, "--promt", "x"], "did you mean '--prompt'"),
    ]
    for arguments, complaint in cases:
        code, printed, errors = command("predict", *model, *out, *arguments)
        assert (code, printed) == (2, ""), arguments
        assert complaint in errors and "Traceback" not in errors, (arguments, errors)
        assert len(errors.splitlines()) == 1, (arguments, errors)
        assert not (tmp_path / "out").exists(), arguments


def test_an_out_that_is_a_file_is_refused(command: Command, random_model: Path, images: list[Path]) -> None:
    file = images[0].parent / "file"
    file.write_text("mine")
    for out in (file, file / "deeper"):
        code, _, errors = command(
            "predict", "--model", str(random_model), "--image", str(images[0]), "--prompt", "x", "--out", str(out)
        )
        assert code == 2 and "file, not a folder" in errors
    assert file.read_text() == "mine"


def test_an_unknown_model_names_the_nearest(
    command: Command, write: Callable[[str, str], Path], images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULLAVA_RESOURCES", str(write("extra/models/midget/model.yaml", "name: midget\n").parents[2]))
    code, _, errors = command("predict", "--model", "midgett", "--image", str(images[0]), "--prompt", "x")
    assert code == 2
    assert "no model 'midgett'; did you mean 'midget'?" in errors


def test_a_folder_without_a_model_is_named(command: Command, tmp_path: Path, images: list[Path]) -> None:
    code, _, errors = command("predict", "--model", str(tmp_path), "--image", str(images[0]), "--prompt", "x")
    assert code == 2
    assert str(tmp_path) in errors


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("granularity=36", "vision strategy clip_mlp takes no override, but was given granularity"),
        ("granularity", "--override 'granularity': expected key=value"),
        ("top_p=[1, 2]", "--override 'top_p=[1, 2]': expected one number or word"),
    ],
)
def test_overrides_reach_the_vision_encoder(
    command: Command, random_model: Path, images: list[Path], overrides: str, message: str
) -> None:
    code, _, errors = command(
        "predict", "--model", str(random_model), "--image", str(images[0]), "--prompt", "What?", "--json",
        "--override", overrides,
    )  # fmt: skip
    assert code == 2 and message in errors


def test_answers_longer_than_the_model_reads_are_refused(command: Command, random_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _, errors = command(
        "predict", "--model", str(random_model), "--prompt", "What?", "--out", str(out), "--max-new-tokens", "100000"
    )
    assert code == 2
    assert errors.splitlines()[-1] == (
        "error: 100000 new tokens: question and answer together have 256 places in this model"
    )
    assert not out.exists()


def questions(folder: Path, count: int) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"What {number}?"}) + "\n" for number in range(count)))
    return path


def test_two_runs_do_not_share_a_folder(command: Command, random_model: Path, images: list[Path]) -> None:
    folder = images[0].parent
    line = ["predict", "--model", str(random_model), "--input", str(questions(folder, 3)), "--out",
            str(folder / "out"), "--max-new-tokens", "2"]  # fmt: skip
    with hold(folder / "out"):
        code, printed, errors = command(*line)
        assert (code, printed) == (2, "") and len(errors.splitlines()) == 1
        assert f"out: in use by process {os.getpid()} on " in errors
    assert command(*line)[0] == 0
    assert len((folder / "out" / "answers.jsonl").read_text().splitlines()) == 3
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["answers.jsonl", "overlays"]


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    command: Command, random_model: Path, images: list[Path], full_disk: Any
) -> None:
    folder = images[0].parent
    out = folder / "out"
    line = ["predict", "--model", str(random_model), "--input", str(questions(folder, 40)), "--out",
            str(out), "--max-new-tokens", "2", "--batch-size", "4"]  # fmt: skip
    whole = ["--out", str(folder / "whole")]
    assert command(*line, *whole)[0] == 0
    expected = (folder / "whole" / "answers.jsonl").read_bytes()
    with full_disk(len(expected) - 200):
        code, _, errors = command(*line)
    assert code == 2 and "Traceback" not in errors
    assert f"error: {out / 'answers.jsonl.part'}: cannot be written (File too large)" in errors.splitlines()
    assert not (out / "answers.jsonl").exists()
    assert not any(path.name.startswith(".") for path in out.rglob("*"))
    assert command(*line)[0] == 0
    assert (out / "answers.jsonl").read_bytes() == expected


def test_an_answer_for_which_there_is_no_room_leaves_the_old_one(
    command: Command, random_model: Path, images: list[Path], full_disk: Any
) -> None:
    out = images[0].parent / "out"
    line = ["predict", "--model", str(random_model), "--prompt", "What?", "--out", str(out), "--max-new-tokens", "2"]
    assert command(*line, "--image", str(images[0]))[0] == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with full_disk(len(before["overlay.png"]) // 2):
        code, _, errors = command(*line, "--image", str(images[1]))
    assert code == 2 and f"{out / 'overlay.png'}: cannot be written (File too large)" in errors
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_full_disk_is_found_before_the_model_is_loaded(
    command: Command, random_model: Path, images: list[Path], full_disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ullava.inference.load.load", lambda *_, **__: pytest.fail("the model was loaded"))
    out = images[0].parent / "new" / "out"
    with full_disk(1000):
        code, printed, errors = command(
            "predict", "--model", str(random_model), "--image", str(images[0]), "--prompt", "x", "--out", str(out)
        )
    assert (code, printed) == (2, "") and errors == f"error: {out}: cannot be written (File too large)\n"
    assert not (images[0].parent / "new").exists()


def test_no_question_has_no_answer(random_model: Path) -> None:
    import ullava

    predictor = ullava.load(str(random_model), device="cpu")
    assert predictor.answer_samples([]) == predictor.teacher_forced([]) == []


def test_surprise_is_the_cross_entropy_of_each_answer(random_model: Path) -> None:
    """In a batch as alone, and its mean is the loss of the network."""
    import ullava
    from ullava.batching.collate import Collator
    from ullava.structures import Sample, Turn

    predictor = ullava.load(str(random_model), device="cpu")
    turns = [Turn("Who?", "Somebody."), Turn("Why is that so?", "No.")]
    samples = [Sample(f"s{number}", "d", "text", (), (turn,)) for number, turn in enumerate(turns)]
    together = predictor.surprise(samples)
    for sample, (nats, tokens) in zip(samples, together, strict=True):
        assert predictor.surprise([sample]) == [(pytest.approx(nats, rel=1e-5), tokens)]
        rows = predictor.encode([sample], prompt_only=False)
        inputs = Collator(predictor.processor.tokenizer.pad_token_id)(rows).inputs
        assert float(predictor.model(**inputs.as_kwargs()).loss.detach()) == pytest.approx(nats / tokens, rel=1e-5)
    assert together[0][1] > together[1][1] > 3 and predictor.surprise([]) == []
