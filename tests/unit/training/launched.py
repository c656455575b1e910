"""``ullava train`` as a test compares it: one process is this one, several are started by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ullava.cli.main import main


def train(recipe: Path, out: Path, processes: int, *overrides: str) -> Path:
    """Train into ``out`` and return it; a process of its own would import for longer than it trains."""
    line = ["train", str(recipe), *filter(None, overrides), "--out", str(out)]
    if processes == 1:
        assert main(line) == 0
        return out
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [*launch, "ullava", *line], capture_output=True, text=True, timeout=580, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out


def loss_lines(run: Path) -> list[dict[str, Any]]:
    """The lines of the log of a run that hold its losses, one a step."""
    lines: list[dict[str, Any]] = [json.loads(text) for text in (run / "train_log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]
