"""Runs that end with their seconds, and learning rates that know it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState, get_scheduler

from ullava.cli.main import main
from ullava.config.schema import BudgetConfig
from ullava.errors import ConfigError
from ullava.training.loop import budget as budget_module
from ullava.training.loop.budget import Budget


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that is set by hand."""
    now = [0.0]
    monkeypatch.setitem(budget_module.CLOCKS, "wall", lambda: now[0])
    return lambda value: now.__setitem__(0, value)


def scheduled(kind: str, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return optimizer, get_scheduler(kind, optimizer, num_warmup_steps=steps // 10, num_training_steps=steps)


def test_the_rate_follows_the_seconds_and_ends_at_nothing(clock: Callable[[float], None]) -> None:
    optimizer, scheduler = scheduled("linear", 100)
    budget = Budget(BudgetConfig(seconds=50))
    budget.on_train_begin(None, TrainerState(max_steps=100), TrainerControl(), lr_scheduler=scheduler)  # type: ignore[arg-type]
    rates = {}
    for second in (2.5, 5, 27.5, 50):
        clock(second)
        optimizer.step()
        scheduler.step()
        rates[second] = scheduler.get_last_lr()[0]
    assert rates == pytest.approx({2.5: 0.5, 5: 1.0, 27.5: 0.5, 50: 0.0})


def test_steps_are_a_limit_too(clock: Callable[[float], None]) -> None:
    optimizer, scheduler = scheduled("linear", 10)
    budget = Budget(BudgetConfig(seconds=1e6))
    budget.on_train_begin(None, TrainerState(max_steps=10), TrainerControl(), lr_scheduler=scheduler)  # type: ignore[arg-type]
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr()[0] == 0.0


def test_it_stops_when_the_seconds_are_spent_and_a_resume_counts_on(clock: Callable[[float], None]) -> None:
    control, args = TrainerControl(), SimpleNamespace(save_strategy="steps")
    saved = TrainerState(max_steps=10, stateful_callbacks={"Budget": {"args": {}, "attributes": {"spent": 6.0}}})
    budget = Budget(BudgetConfig(seconds=10))
    budget.on_train_begin(None, saved, control, lr_scheduler=scheduled("cosine", 10)[1])  # type: ignore[arg-type]
    clock(3.0)
    budget.on_step_end(args, saved, control)  # type: ignore[arg-type]
    assert not control.should_training_stop and budget.state()["attributes"] == {"spent": 9.0}
    clock(4.5)
    budget.on_step_end(args, saved, control)  # type: ignore[arg-type]
    assert control.should_training_stop and control.should_save


def test_what_does_not_go_with_a_budget_is_refused() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ConfigError, match="ReduceLROnPlateau does not go with a budget"):
        Budget(BudgetConfig(seconds=1)).follow(torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), 10)
    with pytest.raises(ConfigError, match="clocks of several processes differ"):
        Budget(BudgetConfig(seconds=1), processes=2)


def test_a_recipe_with_a_budget_ends_early_and_says_so(recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = ["train", str(recipe_file), "budget={seconds: 0.01, clock: cpu}", "training.max_steps=50", "--out", str(out)]
    assert main([*line, "training.save_strategy=no"]) == 0
    report = json.loads((out / "metrics.json").read_text())["training"]
    assert report["steps"] == 1 and report["budget"]["clock"] == "cpu" and report["budget"]["spent"] > 0.01


def test_a_checkpoint_keeps_what_was_spent(recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = ["train", str(recipe_file), "budget={seconds: 600, clock: cpu}", "--out", str(out)]
    assert main([*line, "training.max_steps=3"]) == 0
    state = json.loads((out / "checkpoints" / "checkpoint-3" / "trainer_state.json").read_text())
    before = state["stateful_callbacks"]["Budget"]["attributes"]["spent"]
    assert before > 0
    assert main([*line, "training.max_steps=4", "--resume"]) == 0
    assert json.loads((out / "metrics.json").read_text())["training"]["budget"]["spent"] > before
