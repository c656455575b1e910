"""``torchrun -m ullava eval`` in two processes writes what one process writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def evaluate(world: Path, out: Path, processes: int) -> dict[str, object]:
    """Run ``ullava eval`` with models/tiny in fresh processes; return metrics.json."""
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    entries = "dataset={shapes_res: {limit: 4}, shapes_vqa: {limit: 3}}"
    line = [*launch, "ullava", "eval", "shapes", "--model", "tiny", f"data_root={world}", entries, "device=cpu"]
    line += ["max_new_tokens=8", "batch_size=4", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, timeout=560, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics: dict[str, object] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return metrics


@pytest.mark.slow
def test_two_processes_write_what_one_writes(world: Path, tmp_path: Path) -> None:
    one, two = evaluate(world, tmp_path / "one", 1), evaluate(world, tmp_path / "two", 2)
    assert one == two
    lines = {name: (tmp_path / name / "predictions.jsonl").read_text().splitlines() for name in ("one", "two")}
    assert lines["one"] and len(lines["one"]) == len(lines["two"])
    assert [json.loads(a)["id"] for a in lines["one"]] == [json.loads(b)["id"] for b in lines["two"]]
