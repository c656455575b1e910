"""Small synthetic worlds, and a model that a recipe made in a few steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ullava.cli.main import main
from ullava.synthetic.write import draw_world
from ullava.synthetic.write_clips import draw_video_world

Train = Callable[..., Path]


@pytest.fixture(scope="session")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world to learn from."""
    return draw_world(
        tmp_path_factory.mktemp("lessons") / "world", 12, 3, "train", progress=False, regions=True, grounded=True
    )


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few clips of moving shapes."""
    return draw_video_world(tmp_path_factory.mktemp("films") / "world", 6, 3, progress=False)


@pytest.fixture(scope="session")
def exam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world that training never sees."""
    return draw_world(tmp_path_factory.mktemp("exam") / "world", 8, 4, "seen", progress=False, regions=True)


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory, lessons: Path) -> Train:
    """A function that runs a recipe on the small world for some steps and returns its run folder."""

    def run(recipe: str, steps: int, *overrides: str) -> Path:
        out = tmp_path_factory.mktemp("run") / "run"
        schedule = {"num_decay_steps": max(1, steps // 2), "min_lr_ratio": 0.02}
        short = {
            "max_steps": steps,
            "warmup_steps": steps // 10,
            "lr_scheduler_type": "warmup_stable_decay",
            "lr_scheduler_kwargs": json.dumps(schedule),
            "logging_steps": max(1, steps // 10),
            "save_strategy": "no",
            "eval_strategy": "no",
        }
        settings = [f"training.{key}={value}" for key, value in short.items()]
        line = ["train", recipe, f"data_root={lessons}", "eval_dataset={}", *settings, *overrides, "--out", str(out)]
        assert main(line) == 0
        return out

    return run


@pytest.fixture(scope="session")
def beginner(train: Train) -> Path:
    """The folder of a model that has learnt next to nothing: one step of the quick recipe."""
    return train("tiny_quick", 1, "training.learning_rate=1e-6", "training.per_device_train_batch_size=2") / "model"


def losses(run: Path) -> list[float]:
    """The logged losses of a run, in order."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]
