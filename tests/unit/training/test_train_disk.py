"""Training into a folder that another run has, and onto a disk that is full."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_it(command: Command, recipe_file: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """A function that trains into ``tmp_path / name``."""

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        return command("train", str(recipe_file), *arguments, "--out", str(tmp_path / name))

    return run


def losses(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def errors(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("error: ")]


def test_two_trainings_do_not_share_a_folder(run_it: Any, recipe_file: Path, tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-m", "ullava", "train", str(recipe_file), "training.max_steps=10000", "--out",
         str(tmp_path / "run")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        log = tmp_path / "run" / "train_log.jsonl"
        until = time.monotonic() + 280
        while not log.exists():
            assert first.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        for arguments in ((), ("--resume",), ("training.max_steps=1",)):
            code, _, err = run_it("run", *arguments)
            assert code == 2 and f"run: in use by process {first.pid} on " in err and "ullava" in err
            assert len(err.splitlines()) == 1
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    code, out, err = run_it("run", "--resume", "training.max_steps=10000", "training.save_steps=5000", "data_root=no")
    assert code == 2 and "in use" not in err, "a killed run holds nothing"


def test_a_checkpoint_for_which_there_is_no_room_is_removed(run_it: Any, tmp_path: Path, full_disk: Any) -> None:
    assert run_it("whole")[0] == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "checkpoint-6")
    shutil.rmtree(tmp_path / "run" / "model")
    (tmp_path / "run" / "metrics.json").unlink()
    with full_disk(60_000):
        code, _, err = run_it("run", "--resume")
    assert code == 2 and "Traceback" not in err
    (line,) = errors(err)
    assert "checkpoint-6" in line and "cannot be written (File too large)" in line
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-3"]
    assert not any(path.name.startswith(".") for path in (tmp_path / "run").rglob("*"))
    assert run_it("run", "--resume")[0] == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


@pytest.mark.parametrize("settings", [("stage=scratch",), ("stage=ground", "lora={r: 2}")])
def test_a_model_for_which_there_is_no_room_leaves_none(
    run_it: Any, tmp_path: Path, full_disk: Any, settings: tuple[str, ...]
) -> None:
    with full_disk(60_000):
        code, _, err = run_it("run", "training.save_strategy=no", "training.max_steps=1", *settings)
    assert code == 2 and "Traceback" not in err
    (line,) = errors(err)
    assert ("/model" in line or "/adapter" in line) and "cannot be written (File too large)" in line
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not left & {"model", "adapter"} and not any(name.startswith(".") for name in left)


def test_a_full_disk_is_found_before_anything_is_loaded(
    run_it: Any, tmp_path: Path, full_disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ullava.training.loop.run.start_model", lambda *_: pytest.fail("the model was loaded"))
    with full_disk(1000):
        code, _, err = run_it("run")
    assert (code, err) == (2, f"error: {tmp_path / 'run'}: cannot be written (File too large)\n")
    assert not (tmp_path / "run").exists()


def test_a_run_below_a_file_is_refused(run_it: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, err = run_it("file/run")
    assert code == 2 and "lies below a file, not a folder" in err and len(err.splitlines()) == 1
