"""Training runs with ``packing``, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., tuple[int, str, str]]


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_a_run_has_the_losses_of_a_row_for_each_dialogue(command: Any, recipe_file: Path, tmp_path: Path) -> None:
    arguments = ("training.max_steps=3", "training.save_strategy=no", "training.learning_rate=1e-4")
    assert command("train", str(recipe_file), *arguments, "--out", str(tmp_path / "plain"))[0] == 0
    packed = ("packing.tokens=200", "training.dataloader_num_workers=1")
    code, _, err = command("train", str(recipe_file), *arguments, *packed, "--out", str(tmp_path / "packed"))
    assert code == 0, err
    assert losses(tmp_path / "packed") == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)
    assert len(losses(tmp_path / "packed")) == 3
    code, _, err = command(
        "train", str(recipe_file), "packing.tokens=200", "attn_implementation=flash_attention_2", "--out",
        str(tmp_path / "no"),
    )  # fmt: skip
    assert code == 2 and not (tmp_path / "no" / "train_log.jsonl").exists()
