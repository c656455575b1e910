"""A resumed run is the undisturbed one to the bit: dropout, loader's workers, accumulated steps, borders of epochs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Command = Callable[..., tuple[int, str, str]]
STEPS = 8


@pytest.fixture
def train(command: Command, recipe_file: Path, model_yaml: Path, tmp_path: Path) -> Callable[..., str]:
    """A function that trains the small model with dropout into ``tmp_path / name``: five batches of two an epoch."""
    text = model_yaml.read_text(encoding="utf-8")
    dropping = tmp_path / "dropping" / "model.yaml"
    dropping.parent.mkdir()
    dropping.write_text(
        text.replace("model_type: llama,", "model_type: llama, attention_dropout: 0.3,"), encoding="utf-8"
    )

    def run(name: str, *arguments: str) -> str:
        code, out, err = command(
            "train", str(recipe_file), f"model={dropping}", "dataset={shapes_res: {turns: 1, limit: 10}}",
            "training.per_device_train_batch_size=2", f"training.max_steps={STEPS}", "training.save_steps=1",
            "training.save_total_limit=20", *arguments, "--out", str(tmp_path / name),
        )  # fmt: skip
        assert code == 0, err
        return out

    return run


def losses(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def resumed_after(step: int, whole: Path, torn: Path, train: Callable[[], str]) -> None:
    """Cut a copy of the whole run after ``step``, resume it and compare what it leaves."""
    shutil.copytree(whole, torn)
    shutil.rmtree(torn / "model")
    for number in range(step + 1, STEPS + 1):
        shutil.rmtree(torn / "checkpoints" / f"checkpoint-{number}")
    assert f"resuming after step {step}" in train()
    assert losses(torn) == losses(whole)
    expected, found = (load_file(run / "model" / "model.safetensors") for run in (whole, torn))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("workers", "persistent", "accumulated", "steps"),
    [
        (0, False, 2, (2,)),
        pytest.param(0, False, 2, (3,), marks=pytest.mark.exhaustive),
        pytest.param(1, True, 1, (3, 5, 6), marks=pytest.mark.exhaustive),
        (2, True, 2, (3,)),
        pytest.param(2, True, 2, (2, 4), marks=pytest.mark.exhaustive),
        pytest.param(2, False, 1, (5,), marks=pytest.mark.exhaustive),
    ],
)
def test_a_resumed_run_is_the_undisturbed_one_to_the_bit(
    train: Any, tmp_path: Path, workers: int, persistent: bool, accumulated: int, steps: tuple[int, ...]
) -> None:
    """Resumed within an epoch (5 steps, 3 of accumulated batches), at its border and in the next one."""
    settings = [
        f"training.gradient_accumulation_steps={accumulated}",
        f"training.dataloader_num_workers={workers}",
        f"training.dataloader_persistent_workers={str(persistent).lower()}",
    ]
    train("whole", *settings)
    for step in steps:
        name = f"torn-{step}"
        resumed_after(step, tmp_path / "whole", tmp_path / name, lambda name=name: train(name, *settings, "--resume"))


def test_dropout_of_adapters_goes_on_too(train: Any, tmp_path: Path) -> None:
    train("base", "training.max_steps=1")
    settings = [
        f"init={tmp_path / 'base' / 'model'}",
        "stage=ground",
        "lora={r: 2, dropout: 0.4}",
        "word_dropout=0.2",
        "training.dataloader_num_workers=1",
        "training.dataloader_persistent_workers=true",
    ]
    train("whole", *settings)
    resumed_after(4, tmp_path / "whole", tmp_path / "torn", lambda: train("torn", *settings, "--resume"))


def test_workers_change_no_random_number(train: Any, tmp_path: Path) -> None:
    train("alone")
    train("workers", "training.dataloader_num_workers=2", "training.dataloader_persistent_workers=false")
    assert losses(tmp_path / "workers") == losses(tmp_path / "alone")
