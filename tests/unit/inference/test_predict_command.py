"""``ullava predict`` from the command line to its files, on a small random model, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for number, (height, width) in enumerate([(40, 60), (64, 48)]):
        path = tmp_path / f"picture{number}.png"
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return paths


def test_one_question_writes_both_files(command: Command, random_model: Path, pictures: list[Path]) -> None:
    out = pictures[0].parent / "out"
    code, printed, _ = command(
        "predict", "--model", str(random_model), "--image", str(pictures[0]), "--prompt", "Segment the star.",
        "--out", str(out), "--max-new-tokens", "6", "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    assert sorted(path.name for path in out.iterdir()) == ["answer.json", "overlay.png"]
    record = json.loads((out / "answer.json").read_text())
    assert record["prompt"] == "Segment the star." and record["images"] == [str(pictures[0])]
    assert 0 < record["new_tokens"] <= 6
    assert str(out) in printed
    with Image.open(out / "overlay.png") as overlay:
        assert overlay.size == (60 * 8, 40 * 8)


def test_every_question_is_checked_before_the_first_is_answered(
    command: Command, random_model: Path, pictures: list[Path]
) -> None:
    folder = pictures[0].parent
    rows = [{"image": "picture0.png", "prompt": "What?"}, {"image": "picture1.png", "prompt": "long " * 60}]
    rows += [{"prompt": "word " * 90}]
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, printed, errors = command(
        "predict", "--model", str(random_model), "--prompts", str(folder / "q.jsonl"), "--json", "--batch-size", "1"
    )
    assert (code, printed) == (2, "")
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(told) == 2
    for number, line in zip((2, 3), told, strict=True):
        assert line.startswith(f"error: {folder / 'q.jsonl'}:{number}: ") and "more than max_length 200" in line


def test_json_is_all_that_is_printed_and_nothing_is_written(
    command: Command, random_model: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures[0].parent)
    before = sorted(Path().iterdir())
    code, printed, _ = command(
        "predict", "--model", str(random_model), "--image", str(pictures[0]), str(pictures[1]), "--prompt", "What?",
        "--json", "--max-new-tokens", "4",
    )  # fmt: skip
    assert code == 0
    assert [json.loads(line)["id"] for line in printed.splitlines()] == ["picture0", "picture1"]
    assert sorted(Path().iterdir()) == before


def test_a_batch_gives_what_single_questions_give(command: Command, random_model: Path, pictures: list[Path]) -> None:
    folder = pictures[0].parent
    rows = [
        {"image": "picture0.png", "prompt": "Segment the star.", "id": "a"},
        {"image": "picture1.png", "prompt": "What is shown in this picture here?", "id": "b"},
        {"prompt": "3 + 4?", "id": "c"},
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = ["predict", "--model", str(random_model), "--max-new-tokens", "6"]
    assert command(*base, "--prompts", str(folder / "questions.jsonl"), "--out", str(folder / "many"))[0] == 0
    batch = [json.loads(line) for line in (folder / "many" / "answers.jsonl").read_text().splitlines()]
    assert [row["id"] for row in batch] == ["a", "b", "c"]
    assert sorted(path.name for path in (folder / "many" / "overlays").iterdir()) == ["a.png", "b.png"]
    for row, together in zip(rows, batch, strict=True):
        image = ["--image", str(folder / row["image"])] if "image" in row else []
        code, printed, _ = command(*base, *image, "--prompt", row["prompt"], "--json")
        assert code == 0
        assert json.loads(printed)["text"] == together["text"]


def test_a_model_that_wants_to_say_a_picture_says_something_else(
    command: Command, random_model: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ullava.modeling.ullava import UllavaForConditionalGeneration

    plain = UllavaForConditionalGeneration._logits

    def eager(self: UllavaForConditionalGeneration, hidden: torch.Tensor) -> torch.Tensor:
        logits = plain(self, hidden)
        logits[..., self.config.image_patch_id] += 1e4
        return logits

    monkeypatch.setattr(UllavaForConditionalGeneration, "_logits", eager)
    code, printed, errors = command(
        "predict", "--model", str(random_model), "--image", str(pictures[0]), "--prompt", "x", "--json",
        "--max-new-tokens", "4",
    )  # fmt: skip
    assert code == 0, errors
    assert "<image_patch>" not in json.loads(printed)["text"]


def test_inputs_are_refused_before_anything_is_written(
    command: Command, random_model: Path, pictures: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "bad.jsonl").write_text('{"image": "picture0.png", "prompt": "x"}\n{"image": \n')
    (tmp_path / "gone.jsonl").write_text('{"image": "nowhere.png", "prompt": "x"}\n')
    (tmp_path / "file").touch()
    picture, out, model = str(pictures[0]), ["--out", str(tmp_path / "out")], ["--model", str(random_model)]
    cases: list[tuple[list[str], str]] = [
        (["--image", str(tmp_path / "none.jpg"), "--prompt", "x"], "none.jpg"),
        (["--image", str(tmp_path / "empty.jpg"), "--prompt", "x"], "empty"),
        (["--image", str(tmp_path / "text.jpg"), "--prompt", "x"], "not a picture"),
        (["--image", str(tmp_path), "--prompt", "x"], str(tmp_path)),
        (["--prompts", str(tmp_path / "bad.jsonl")], "bad.jsonl:2"),
        (["--prompts", str(tmp_path / "gone.jsonl")], "nowhere.png"),
        (["--prompts", str(tmp_path / "none.jsonl")], "none.jsonl"),
        (["--image", picture, "--prompt", "  "], "empty"),
        (["--image", picture], "--prompt"),
        (["--image", picture, "--prompt", "x", "--prompts", str(tmp_path / "bad.jsonl")], "--prompts"),
        (["--image", picture, "--prompt", "x", "--prompt", "y"], "--prompt is given 2 times"),
        (["--video", "a.mp4", "--prompt", "x"], "video"),
        (["--image", picture, "--prompt", "x", "--device", "toaster"], "toaster"),
        (["--image", picture, "--prompt", "x", "--batch-size", "0"], "--batch-size"),
        (["--image", picture, "--prompt", "x", "--max-new-tokens", "many"], "--max-new-tokens"),
        (["--image", picture, "--promt", "x"], "did you mean '--prompt'"),
    ]
    for arguments, complaint in cases:
        code, printed, errors = command("predict", *model, *out, *arguments)
        assert (code, printed) == (2, ""), arguments
        assert complaint in errors and "Traceback" not in errors, (arguments, errors)
        assert len(errors.splitlines()) == 1, (arguments, errors)
        assert not (tmp_path / "out").exists(), arguments


def test_an_out_that_is_a_file_is_refused(command: Command, random_model: Path, pictures: list[Path]) -> None:
    file = pictures[0].parent / "file"
    file.write_text("mine")
    for out in (file, file / "deeper"):
        code, _, errors = command(
            "predict", "--model", str(random_model), "--image", str(pictures[0]), "--prompt", "x", "--out", str(out)
        )
        assert code == 2 and "file, not a folder" in errors
    assert file.read_text() == "mine"


def test_an_unknown_model_names_the_nearest(
    command: Command, write: Callable[[str, str], Path], pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULLAVA_RESOURCES", str(write("extra/models/midget/model.yaml", "name: midget\n").parents[2]))
    code, _, errors = command("predict", "--model", "midgett", "--image", str(pictures[0]), "--prompt", "x")
    assert code == 2
    assert "no model 'midgett'; did you mean 'midget'?" in errors


def test_a_folder_without_a_model_is_named(command: Command, tmp_path: Path, pictures: list[Path]) -> None:
    code, _, errors = command("predict", "--model", str(tmp_path), "--image", str(pictures[0]), "--prompt", "x")
    assert code == 2
    assert str(tmp_path) in errors


@pytest.mark.parametrize(
    ("force", "message"),
    [
        ("granularity=36", "vision strategy clip_mlp takes no override, but was given granularity"),
        ("granularity", "--force 'granularity': expected key=value"),
        ("gamma=[1, 2]", "--force 'gamma=[1, 2]': expected one number or word"),
    ],
)
def test_overrides_reach_the_front_end(
    command: Command, random_model: Path, pictures: list[Path], force: str, message: str
) -> None:
    code, _, errors = command(
        "predict", "--model", str(random_model), "--image", str(pictures[0]), "--prompt", "What?", "--json",
        "--force", force,
    )  # fmt: skip
    assert code == 2 and message in errors
