"""``ullava train --resume``: a finished run stays as it is, an unfinished one goes on from what is whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ullava.cli.main import main
from ullava.training.loop.checkpoint import seal

Command = Callable[..., tuple[int, str, str]]
EVALUATED = ("eval_dataset={shapes_vqa: {limit: 1}}", "max_new_tokens=2", "training.lr_scheduler_type=cosine")


class Trained:
    """A finished run of four steps; ``resume`` goes on in a copy of it."""

    def __init__(self, folder: Path, recipe: Path) -> None:
        self.run, self.recipe = folder / "run", recipe
        assert self.train(self.run) == 0

    def train(self, out: Path, *extra: str) -> int:
        steps = ("training.max_steps=4", "training.save_steps=2")
        return main(["train", str(self.recipe), *EVALUATED, *steps, *extra, "--out", str(out)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, world: Path, model_yaml: Path) -> Trained:
    """The finished run."""
    from tests.unit.training.conftest import RECIPE

    folder = tmp_path_factory.mktemp("finished")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.replace("WORLD", str(world)).replace("MODEL", str(model_yaml)))
    return Trained(folder, recipe)


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(trained.run, tmp_path / "run"))


@pytest.fixture
def resume(trained: Trained, run: Path, capsys: Any) -> Callable[..., tuple[int, str, str]]:
    """A function that resumes the copy: (exit code, stdout, stderr)."""

    def go_on(*extra: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = trained.train(run, *extra, "--resume")
        said = capsys.readouterr()
        return code, said.out, said.err

    return go_on


def content(folder: Path) -> dict[str, bytes]:
    """Return every file below ``folder`` by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    return [line for line in found if "train_runtime" not in line]


def test_a_finished_run_says_so_and_changes_nothing(run: Path, resume: Any) -> None:
    before = content(run)
    times = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    code, out, err = resume()
    assert code == 0, err
    assert out == f"already finished after 4 steps, nothing changed: {run / 'model'}\n"
    assert content(run) == before and times == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_a_finished_run_without_checkpoints_is_finished_too(run: Path, resume: Any) -> None:
    shutil.rmtree(run / "checkpoints")
    before = content(run)
    code, out, _ = resume()
    assert code == 0 and "already finished" in out and content(run) == before


@pytest.mark.parametrize(
    "missing", [("model",), ("metrics.json",), ("curve.png",), ("model", "metrics.json", "curve.png")]
)
def test_what_is_missing_at_the_end_is_written_without_a_step(
    trained: Trained, run: Path, resume: Any, missing: tuple[str, ...]
) -> None:
    for name in missing:
        shutil.rmtree(run / name) if name == "model" else (run / name).unlink()
    code, out, err = resume()
    assert code == 0, err
    assert "all 4 steps are there: writing what is missing" in out
    now, before = content(run), content(trained.run)
    assert now.keys() == before.keys()
    different = {name for name in now if now[name] != before[name]}
    assert different <= {"metrics.json", "curve.png"}  # seconds, and a drawing library's own data
    metrics = json.loads(now["metrics.json"])
    expected = json.loads(before["metrics.json"])
    assert metrics["results"] == expected["results"]
    assert metrics["training"] | {"seconds": 0} == expected["training"] | {"seconds": 0}


def test_a_cut_off_model_is_written_again(trained: Trained, run: Path, resume: Any) -> None:
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert resume()[0] == 0
    assert weights.read_bytes() == (trained.run / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json"])
def test_a_damaged_table_of_the_finished_model_is_written_again(
    trained: Trained, run: Path, resume: Any, name: str
) -> None:
    (run / "model" / name).write_bytes(b'{"a": "\xe9"}')
    code, out, _ = resume()
    assert code == 0 and "writing what is missing" in out
    assert (run / "model" / name).read_bytes() == (trained.run / "model" / name).read_bytes()


def test_weights_that_are_a_link_to_nowhere_are_written_again(trained: Trained, run: Path, resume: Any) -> None:
    weights = run / "model" / "model.safetensors"
    weights.unlink()
    weights.symlink_to("nowhere")
    assert resume()[0] == 0
    assert weights.read_bytes() == (trained.run / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["trainer_state.json", "model.safetensors"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    trained: Trained, run: Path, resume: Any, name: str
) -> None:
    path = run / "checkpoints" / "checkpoint-4" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shutil.rmtree(run / "model")
    code, out, err = resume()
    assert code == 0, err
    assert f"passed over: {path.parent}" in out and name in out and "resuming after step 2" in out
    assert lines(run) == lines(trained.run)
    assert content(run / "model") == content(trained.run / "model")


def test_nothing_but_damaged_checkpoints_is_refused_and_nothing_is_lost(run: Path, resume: Any) -> None:
    for step in (2, 4):
        (run / "checkpoints" / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"")
    shutil.rmtree(run / "model")
    before = content(run)
    code, _, err = resume()
    assert code == 2 and "Traceback" not in err
    assert all(f"checkpoint-{step}: optimizer.pt has 0 bytes" in err for step in (2, 4))
    assert content(run) == before


def test_more_steps_go_on_and_fewer_are_refused(run: Path, resume: Any) -> None:
    before = content(run)
    code, _, err = resume("training.max_steps=3")
    assert code == 2 and "has 4 steps, more than the 3 that the recipe asks for now" in err
    assert content(run) == before
    code, out, err = resume("training.max_steps=5")
    assert code == 0, err
    assert "resuming after step 4" in out and "4 steps were planned, now 5" in out
    assert [line["step"] for line in lines(run) if "loss" in line] == [1, 2, 3, 4, 5]
    assert json.loads((run / "metrics.json").read_text())["training"]["steps"] == 5
    assert "already finished after 5 steps" in resume("training.max_steps=5")[1]


def test_a_run_of_epochs_knows_its_end(run: Path, resume: Any) -> None:
    code, out, err = resume("training.max_steps=-1", "training.num_train_epochs=0.04")
    assert code == 2 and "has 4 steps, more than the 1 that" in err, out
    code, out, err = resume("training.max_steps=-1", "training.num_train_epochs=0.2")
    assert code == 0 and "already finished after 4 steps" in out, err


def test_weights_alone_are_no_checkpoint_to_go_on_from(trained: Trained, tmp_path: Path, capsys: Any) -> None:
    out, alone = tmp_path / "alone", ("training.save_only_model=true", "eval_dataset={}")
    assert trained.train(out, *alone, "training.max_steps=2") == 0
    assert trained.train(out, *alone, "--resume") == 2
    assert "has weights alone (training.save_only_model)" in capsys.readouterr().err
    shutil.rmtree(out / "model")
    assert trained.train(out, *alone, "training.max_steps=2", "--resume") == 0
    assert (out / "model" / "model.safetensors").is_file()


def test_another_number_of_processes_is_told(run: Path, resume: Any) -> None:
    checkpoint = run / "checkpoints" / "checkpoint-2"
    numbers = (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    shutil.copy(numbers, checkpoint / "rng_state_1.pth")
    seal(checkpoint)
    for name in ("model", "checkpoints/checkpoint-4"):
        shutil.rmtree(run / name)
    code, out, err = resume()
    assert code == 0, err
    assert f"2 processes wrote {checkpoint}, now there are 1: random numbers differ from here on" in out


def test_a_damaged_log_is_named_with_its_line(run: Path, resume: Any) -> None:
    log = run / "train_log.jsonl"
    log.write_bytes(b'{"step": 1, "loss": 2.0}\n\xff\x00garbage\n' + log.read_bytes())
    code, _, err = resume()
    assert code == 2 and f"{log}:2: " in err


def test_a_lora_run_that_is_finished_stays_and_its_adapter_is_made_again(
    trained: Trained, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "lora"
    settings = (f"init={trained.run / 'model'}", "stage=ground", "lora={r: 2}", "eval_dataset={}")
    assert trained.train(out, *settings) == 0
    before = content(out)
    assert trained.train(out, *settings, "--resume") == 0
    assert "already finished" in capsys.readouterr().out and content(out) == before
    shutil.rmtree(out / "adapter")
    assert trained.train(out, *settings, "--resume") == 0
    now = content(out)
    assert {name for name in now if now[name] != before[name]} <= {"curve.png"} and now.keys() == before.keys()


def test_an_evaluation_that_was_missed_is_made_up(trained: Trained, run: Path, tmp_path: Path, capsys: Any) -> None:
    steps = ("training.eval_strategy=steps", "training.eval_steps=2")
    whole = tmp_path / "whole"
    assert trained.train(whole, *steps) == 0
    torn = Path(shutil.copytree(whole, tmp_path / "torn"))
    for name in ("model", "checkpoints/checkpoint-4", "eval"):
        shutil.rmtree(torn / name)
    log = (torn / "train_log.jsonl").read_text().splitlines(keepends=True)
    (torn / "train_log.jsonl").write_text("".join(log[:2]))  # the losses of two steps, as after a SIGTERM
    assert trained.train(torn, *steps, "--resume") == 0
    assert lines(torn) == lines(whole)
