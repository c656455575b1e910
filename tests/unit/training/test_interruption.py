"""SIGTERM and Ctrl-C: a checkpoint, an exit code of their own, and a resume that ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ullava.errors import Interrupted
from ullava.training.loop import run as run_module
from ullava.training.loop.interruption import StopSignals
from ullava.training.loop.trainer import UllavaTrainer
from ullava.training.reporting.monitor import EvaluationMonitor

EVALUATED = ("eval_dataset={shapes_vqa: {limit: 1}}", "max_new_tokens=2", "training.eval_strategy=steps")
SETTINGS = (*EVALUATED, "training.eval_steps=2", "training.max_steps=4", "training.logging_steps=3")


@pytest.fixture
def train(command: Any, recipe_file: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """A function that trains into ``tmp_path / name``."""

    def run(name: str, *extra: str) -> tuple[int, str, str]:
        return command("train", str(recipe_file), *SETTINGS, *extra, "--out", str(tmp_path / name))  # type: ignore[no-any-return]

    return run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run that no signal stops leaves its results; the first test that compares with it makes it."""
    return tmp_path_factory.mktemp("undisturbed") / "whole"


def results(run: Path) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """Return the lines of losses and figures, and the weights."""
    lines = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    weights = load_file(run / "model" / "model.safetensors")
    return [line for line in lines if "train_runtime" not in line], {k: v.tolist() for k, v in weights.items()}


def signal_in(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, number: int) -> None:
    """Let this process get a signal at the beginning of the call-th call of a function."""
    inner, calls = getattr(owner, name), [0]

    def run(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), number)
        return inner(*args, **kwargs)

    monkeypatch.setattr(owner, name, run)


MOMENTS: dict[str, tuple[Any, str, int, int]] = {
    "a step": (UllavaTrainer, "training_step", 1, 1),
    "a step before an evaluation": (UllavaTrainer, "training_step", 2, 2),
    "the last step": (UllavaTrainer, "training_step", 4, 4),
    "a checkpoint": (UllavaTrainer, "save_model", 1, 4),
    "an evaluation": (EvaluationMonitor, "__call__", 1, 2),
    "the end": (run_module, "save_run", 1, 4),
}
"""A moment of the run -> whose function the signal comes in, in which call; the newest checkpoint afterwards."""
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}
COMMON = {(signal.SIGTERM, "a step before an evaluation"), (signal.SIGTERM, "an evaluation"),
          (signal.SIGTERM, "the end"), (signal.SIGINT, "a step")}  # fmt: skip
"""What every run of the tests tries; the rest are left to the exhaustive one."""


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(number, moment, marks=[] if (number, moment) in COMMON else [pytest.mark.exhaustive])
        for number in STATUS
        for moment in MOMENTS
    ],
)
def test_a_signal_leaves_a_checkpoint_and_the_run_goes_on_from_it(
    train: Any,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    moment: str,
) -> None:
    owner, name, call, checkpoint = MOMENTS[moment]
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        signal_in(patch, owner, name, call, number)
        code, _, err = train("torn")
    assert code == STATUS[number] and "Traceback" not in err
    assert handlers == [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    found = sorted((tmp_path / "torn" / "checkpoints").iterdir())
    assert found[-1].name == f"checkpoint-{checkpoint}"
    assert not (tmp_path / "torn" / "model").exists()
    code, out, err = train("torn", "--resume")
    assert code == 0, err
    assert "passed over" not in out
    if not undisturbed.exists():
        assert train(str(undisturbed))[0] == 0
    assert results(tmp_path / "torn") == results(undisturbed)


def test_an_evaluation_that_is_left_has_its_checkpoint_where_the_best_alone_are_kept(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = ("training.save_strategy=best", "training.metric_for_best_model=shapes_vqa_accuracy")
    with monkeypatch.context() as patch:
        signal_in(patch, EvaluationMonitor, "__call__", 1, signal.SIGTERM)
        code, _, err = train("torn", *best)
    assert code == 143 and "stopped after step 2; go on with --resume" in err
    assert newest(tmp_path / "torn") == 2
    code, out, err = train("torn", *best, "--resume")
    assert code == 0 and "resuming after step 2" in out, err
    assert (tmp_path / "torn" / "model").is_dir()


def test_a_second_press_does_not_wait_for_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with StopSignals() as stop, stop.between_steps():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # torchrun's copy of the same
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGINT
        now[0] += 3
        with pytest.raises(Interrupted) as raised:
            os.kill(os.getpid(), signal.SIGINT)
    assert raised.value.exit_code == 130


def launch(recipe: Path, out: Path, *extra: str, processes: int = 1) -> subprocess.Popen[str]:
    """Start a long run in a process group of its own, and wait for its first steps."""
    line = [sys.executable, "-m"]
    if processes > 1:
        line += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    line += ["ullava", "train", str(recipe), "training.max_steps=5000", *extra, "--out", str(out)]
    running = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 200
    while not (out / "train_log.jsonl").exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return running


def newest(out: Path) -> int:
    return max(int(path.name.split("-")[1]) for path in (out / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_signal_to_the_whole_group_does_not_take_the_loaders_away(recipe_file: Path, tmp_path: Path) -> None:
    running = launch(recipe_file, tmp_path / "run", "training.dataloader_num_workers=1", "training.save_steps=5000")
    os.killpg(running.pid, signal.SIGTERM)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 143, err
    assert "SIGTERM: stopping after this step, with a checkpoint" in err and "Traceback" not in err
    assert f"stopped after step {newest(tmp_path / 'run')}; go on with --resume" in err


@pytest.mark.exhaustive
def test_processes_stop_together_when_one_is_told(recipe_file: Path, tmp_path: Path) -> None:
    running = launch(recipe_file, tmp_path / "run", "training.save_steps=5000", processes=2)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    second = next(pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(int(second), signal.SIGTERM)
    _, err = running.communicate(timeout=120)
    assert running.returncode != 0 and f"stopped after step {newest(tmp_path / 'run')}; go on with --resume" in err
    assert err.count("go on with --resume") == 2
