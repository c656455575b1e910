"""Losses, gradients, weights, optimizers that are not finite: what is skipped, what stops, what is never saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file

from ullava.training.loop import run as run_module
from ullava.training.loop.finite import is_finite, plain, tensors_in
from ullava.training.loop.trainer import UllavaTrainer
from ullava.training.optim.objective import GroundingObjective, LossTerms

Command = Callable[..., tuple[int, str, str]]


class Steep(GroundingObjective):
    """The loss is finite; in the passes ``when`` its gradient is multiplied by ``factor``."""

    factor = float("nan")
    when: Callable[[int], bool] = staticmethod(lambda call: True)
    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> LossTerms:
        terms = super().__call__(*args, **kwargs)
        self.calls += 1
        if type(self).when(self.calls):
            terms.total.register_hook(lambda gradient: gradient * self.factor)
        return terms


@pytest.fixture
def train(command: Command, recipe_file: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """A function that trains twelve steps into ``tmp_path / "run"``."""

    def run(*overrides: str) -> tuple[int, str, str]:
        out = str(tmp_path / "run")
        return command("train", str(recipe_file), "training.max_steps=12", *overrides, "--out", out)

    return run


def steep(monkeypatch: pytest.MonkeyPatch, when: Callable[[int], bool], factor: float = float("nan")) -> None:
    kind = type("Here", (Steep,), {"when": staticmethod(when), "factor": factor})
    monkeypatch.setattr(run_module, "GroundingObjective", kind)


def strict(text: str) -> Any:
    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def saved(run: Path) -> list[str]:
    """Return the names of the checkpoints, after looking at each number of their weights and JSON files."""
    for path in run.rglob("*.safetensors"):
        assert all(bool(torch.isfinite(value).all()) for value in load_file(path).values()), path
    for path in run.rglob("*.json"):
        strict(path.read_text())
    for line in (run / "train_log.jsonl").read_text().splitlines():
        strict(line)
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_gradients_that_stay_not_finite_stop_the_run(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float, factor: float
) -> None:
    steep(monkeypatch, lambda call: call > 3, factor)
    code, _, err = train(f"training.max_grad_norm={clip}")
    assert code == 2 and "the gradient was not finite 5 times in a row at step 7" in err
    assert saved(tmp_path / "run") == ["checkpoint-3", "checkpoint-6"]
    first, second = (load_file(tmp_path / f"run/checkpoints/checkpoint-{n}/model.safetensors") for n in (3, 6))
    assert all(torch.equal(first[name], second[name]) for name in first)
    lines = [strict(line) for line in (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()]
    assert [line["grad_norm"] is None for line in lines] == [False] * 3 + [True] * 4
    assert all(line["loss"] > 0 for line in lines) and lines[-1]["skipped_batches"] == 4


def test_gradients_that_are_not_finite_now_and_then_are_skipped(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steep(monkeypatch, lambda call: call % 2 == 0)
    assert train("training.max_grad_norm=0")[0] == 0
    assert saved(tmp_path / "run") == ["checkpoint-12", "checkpoint-3", "checkpoint-6", "checkpoint-9"]
    assert strict((tmp_path / "run" / "metrics.json").read_text())["training"]["skipped_batches"] == 6


def test_one_bad_part_of_the_gradient_is_enough(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = UllavaTrainer.training_step

    def step(self: UllavaTrainer, model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = inner(self, model, *args, **kwargs)
        if self.state.global_step >= 4:
            model.box_head.decoder[0].bias.grad[1] = torch.nan
        return loss

    monkeypatch.setattr(UllavaTrainer, "training_step", step)
    code, _, err = train("training.max_grad_norm=0", "training.bf16=true")
    assert code == 2 and "the gradient was not finite 5 times in a row at step 8" in err
    assert saved(tmp_path / "run") == ["checkpoint-3", "checkpoint-6"]


def harm_after(monkeypatch: pytest.MonkeyPatch, step: int, harm: Callable[[UllavaTrainer], None]) -> None:
    inner = UllavaTrainer.save_model

    def save(self: UllavaTrainer, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step == step:
            harm(self)
        inner(self, *args, **kwargs)

    monkeypatch.setattr(UllavaTrainer, "save_model", save)


def test_weights_that_are_not_finite_do_not_replace_a_good_checkpoint(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm_after(monkeypatch, 6, lambda trainer: trainer.model.box_head.decoder[0].bias.data.fill_(torch.nan))
    code, _, err = train("training.save_total_limit=1")
    assert code == 2 and "step 6: numbers of the run are not finite: box_head.decoder.0.bias" in err
    assert "checkpoint-6 is not written, and the checkpoint before stays" in err
    assert saved(tmp_path / "run") == ["checkpoint-3"]
    assert not (tmp_path / "run" / "model").exists()


def test_an_optimizer_that_is_not_finite_is_not_saved(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def harm(trainer: UllavaTrainer) -> None:
        trainer.optimizer.state[trainer.model.box_head.decoder[0].bias]["exp_avg_sq"][2] = torch.inf

    harm_after(monkeypatch, 3, harm)
    code, _, err = train()
    assert code == 2 and "numbers of the run are not finite: optimizer.state." in err and "exp_avg_sq" in err
    assert saved(tmp_path / "run") == []


def test_a_model_that_is_not_finite_is_not_written(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = UllavaTrainer.train

    def train_and_harm(self: UllavaTrainer, *args: Any, **kwargs: Any) -> None:
        inner(self, *args, **kwargs)
        self.model.box_head.decoder[0].bias.data.fill_(torch.inf)

    monkeypatch.setattr(UllavaTrainer, "train", train_and_harm)
    code, _, err = train("training.save_strategy=no", "training.max_steps=1")
    assert code == 2 and "model is not written" in err
    assert not (tmp_path / "run" / "model").exists() and not (tmp_path / "run" / "metrics.json").exists()


def test_a_step_without_a_finite_loss_has_no_loss_in_the_log(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Undefined(GroundingObjective):
        calls = 0

        def __call__(self, *args: Any, **kwargs: Any) -> LossTerms:
            terms = super().__call__(*args, **kwargs)
            self.calls += 1
            if self.calls != 2:
                return terms
            return replace(terms, total=terms.total * torch.nan)

    monkeypatch.setattr(run_module, "GroundingObjective", Undefined)
    assert train("training.max_steps=3")[0] == 0
    saved(tmp_path / "run")
    lines = [strict(line) for line in (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()]
    assert [line["loss"] is None for line in lines if "loss" in line] == [False, True, False]


@pytest.mark.parametrize(
    ("values", "finite"),
    [([1.0, 2.0], True), ([3e38, 3e38], True), ([], True), ([1.0, float("nan")], False), ([float("-inf")], False)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_finite(values: list[float], finite: bool, dtype: torch.dtype) -> None:
    assert is_finite(torch.tensor(values, dtype=dtype)) == finite


def test_figures_that_json_cannot_hold_are_null() -> None:
    assert [plain(value) for value in (1.23456789, float("nan"), float("inf"), 3, "x")] == [
        1.234568,
        None,
        None,
        3,
        "x",
    ]


def test_tensors_are_found_wherever_they_are() -> None:
    tree = {"muon": {"state": {0: {"buffer": torch.zeros(1)}}}, "lrs": [0.1, torch.ones(1)]}
    assert [name for name, _ in tensors_in(tree, "all")] == ["all.muon.state.0.buffer", "all.lrs.1"]
