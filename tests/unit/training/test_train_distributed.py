"""Two processes on a CPU (torchrun, gloo, DDP) train as one with twice the batch does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def train(recipe: Path, out: Path, processes: int, *overrides: str) -> list[dict[str, float]]:
    """Run ``ullava train`` for two steps in fresh processes; return the logged losses."""
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    line = [*launch, "ullava", "train", str(recipe), *overrides, "training.max_steps=2", "--out", str(out)]
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(text) for text in (out / "train_log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_two_processes_equal_one_with_twice_the_batch(recipe_file: Path, tmp_path: Path) -> None:
    one = train(recipe_file, tmp_path / "one", 1, "training.per_device_train_batch_size=4")
    two = train(recipe_file, tmp_path / "two", 2, "training.per_device_train_batch_size=2")
    assert [line["step"] for line in one] == [line["step"] for line in two] == [1, 2]
    compared: set[str] = set()
    for alone, together in zip(one, two, strict=True):
        judged = {name for name in alone if name.startswith("loss") or name == "grad_norm"}
        assert judged == {name for name in together if name.startswith("loss") or name == "grad_norm"}
        for name in judged:
            assert together[name] == pytest.approx(alone[name], rel=1e-3), name
        compared |= judged
    assert {"loss", "loss_ce", "loss_bce", "loss_dice", "loss_l1", "loss_giou", "grad_norm"} <= compared
