"""``ullava data``: what its subcommands write and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ullava.cli.main import main
from ullava.run_lock import hold

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("command") / "world"
    assert main(["data", "draw", "--out", str(out), "--images", "6", "--seed", "3", "--split", "unseen"]) == 0
    return out


def test_draw_writes_the_world_it_was_asked_for(world: Path) -> None:
    about = json.loads((world / "world.json").read_text())
    assert (about["split"], about["seed"], about["images"]) == ("unseen", 3, 6)
    assert len(list((world / "images").iterdir())) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--split", "sean"], "did you mean 'seen'?"),
        (["--images", "0"], "images must be 1 or more"),
        (["--workers", "-1"], "workers must be 1 or more"),
        (["--seed", "x"], "--seed"),
        (["--sed", "3"], "did you mean '--seed'?"),
    ],
)
def test_draw_refuses_with_one_line(
    change: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "draw", "--out", str(tmp_path / "w"), "--images", "2", *change]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert list(tmp_path.iterdir()) == []


def test_draw_refuses_a_folder_in_use(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(world.rglob("*"))
    assert main(["data", "draw", "--out", str(world), "--images", "1"]) == 2
    assert f"{world}: exists and is not an empty folder" in capsys.readouterr().err
    assert sorted(world.rglob("*")) == before


def test_tokenizer_learns_the_words_of_a_world(world: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    out = tmp_path / "tokenizer"
    assert main(["data", "tokenizer", "--world", str(world), "--vocabulary", "400", "--out", str(out)]) == 0
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    text = "the small circle left of the ring"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) < len(text) / 2 and tokenizer.decode(ids) == text


def test_tokenizer_refuses_a_folder_that_is_no_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["data", "tokenizer", "--world", str(tmp_path / "no"), "--vocabulary", "20", "--out", str(tmp_path / "t")]
    assert main(args) == 2
    err = capsys.readouterr().err
    assert "res.json: no such file" in err and "--vocabulary must be 258 or more" in err


def test_the_command_line_is_built_without_heavy_imports() -> None:
    code = (
        "import sys; from ullava.cli.main import build_parser; build_parser('data'); "
        "print([m for m in ('torch', 'transformers', 'cv2', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("what", ["--images", "--videos"])
def test_a_world_for_which_there_is_no_room_leaves_nothing(
    tmp_path: Path, command: Command, full_disk: Any, what: str
) -> None:
    line = ["data", "draw", what, "3", "--out", str(tmp_path / "new" / "world")]
    with full_disk(4200):
        code, _, err = command(*line)
    assert code == 2 and "Traceback" not in err
    assert err.splitlines()[-1] == f"error: {tmp_path / 'new' / 'world'}: cannot be written: File too large"
    assert not (tmp_path / "new").exists()
    with hold(tmp_path / "new" / "world", beside=True):
        code, _, err = command(*line)
        assert code == 2 and "world: in use by process" in err
    assert command(*line)[0] == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["world"]


def test_a_tokenizer_for_which_there_is_no_room_leaves_nothing(
    tmp_path: Path, command: Command, full_disk: Any
) -> None:
    assert command("data", "draw", "--images", "2", "--out", str(tmp_path / "world"))[0] == 0
    line = [
        "data",
        "tokenizer",
        "--world",
        str(tmp_path / "world"),
        "--vocabulary",
        "300",
        "--out",
        str(tmp_path / "t"),
    ]
    with full_disk(4200):
        code, _, err = command(*line)
    assert code == 2 and err.splitlines() == [f"error: {tmp_path / 't'}: cannot be written (File too large)"]
    assert [path.name for path in tmp_path.iterdir()] == ["world"]
    assert command(*line)[0] == 0
    assert (tmp_path / "t" / "tokenizer.json").is_file()
