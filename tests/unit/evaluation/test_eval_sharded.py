"""``torchrun -m ullava eval`` in two processes writes what one process writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ullava.cli.main import main


def evaluate(world: Path, out: Path, processes: int) -> dict[str, object]:
    """Run ``ullava eval`` with models/tiny, in this process where it is one; return metrics.json."""
    entries = "dataset={shapes_res: {limit: 4}, shapes_vqa: {limit: 3}}"
    line = ["eval", "shapes", "--model", "tiny", f"data_root={world}", entries, "device=cpu"]
    line += ["max_new_tokens=8", "batch_size=4", "--out", str(out)]
    if processes == 1:
        assert main(line) == 0
    else:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*launch, "-m", "ullava", *line], capture_output=True, text=True, timeout=560, env=environment, check=False
        )
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
