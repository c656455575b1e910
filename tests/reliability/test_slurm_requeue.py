"""``shells/slurm_requeue.sh``, with programs that stand for srun and scontrol: SLURM itself was not at hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.training.conftest import MODEL, RECIPE

SCRIPT = Path(__file__).parents[2] / "shells" / "slurm_requeue.sh"
SRUN = """#!/usr/bin/env bash
while [ "${1#--}" != "$1" ]; do shift; done
tasks=()
for task in $(seq 0 $((SLURM_NTASKS - 1))); do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
  tasks+=($!)
done
echo "${tasks[@]}" > tasks.new && mv tasks.new tasks
highest=0
for task in "${tasks[@]}"; do
  status=0
  wait "$task" || status=$?
  if [ $status -gt $highest ]; then highest=$status; fi
done
exit $highest
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> queue; fi
"""
STAND_IN = """#!/usr/bin/env bash
echo "$@" >> lines
env | grep -E '^(RANK|LOCAL_RANK|WORLD_SIZE)=' | sort | tr '\\n' ' ' >> told
exit STATUS
"""


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """A function that begins a job of so many tasks, whose ``ullava`` is the text that it is given."""

    def begin(ullava: str, tasks: int, *arguments: str) -> subprocess.Popen[str]:
        programs = {"bin/srun": SRUN, "bin/scontrol": SCONTROL, ".venv/bin/ullava": ullava}
        for name, text in programs.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        (tmp_path / "tasks").unlink(missing_ok=True)
        environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
        environment |= {"SLURM_NTASKS": str(tasks), "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_NODELIST": "n0"}
        return subprocess.Popen(
            [str(SCRIPT), *arguments], cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE
        )

    return begin


@pytest.mark.parametrize(("status", "left", "queued"), [(0, 0, ""), (143, 0, "requeue 77\n"), (2, 2, ""), (1, 1, "")])
def test_a_stopped_run_is_queued_again_and_a_failed_one_is_not(
    job: Callable[..., subprocess.Popen[str]], tmp_path: Path, status: int, left: int, queued: str
) -> None:
    assert job(STAND_IN.replace("STATUS", str(status)), 1, "run", "mine", "a=b c").wait(60) == left
    assert (tmp_path / "lines").read_text() == "train mine a=b c --out run\n"
    assert (tmp_path / "told").read_text() == "", "one process alone is no distributed run"
    assert ((tmp_path / "queue").read_text() if queued else "") == queued
    (tmp_path / "run").mkdir()
    assert job(STAND_IN.replace("STATUS", "0"), 2, "run", "mine").wait(60) == 0
    assert (tmp_path / "lines").read_text().splitlines()[1:] == ["train mine --resume --out run"] * 2
    assert sorted((tmp_path / "told").read_text().split()) == [
        "LOCAL_RANK=0", "LOCAL_RANK=1", "RANK=0", "RANK=1", "WORLD_SIZE=2", "WORLD_SIZE=2",
    ]  # fmt: skip


def test_a_job_without_a_recipe_is_refused(job: Callable[..., subprocess.Popen[str]]) -> None:
    refused = job(STAND_IN, 1, "run")
    assert refused.wait(60) == 2 and "usage: sbatch shells/slurm_requeue.sh OUT RECIPE" in refused.communicate()[1]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_processes_stop_in_an_evaluation_and_the_next_job_goes_on(
    job: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    from ullava.synthetic.write import draw_world

    draw_world(tmp_path / "shapes", 12, 5, "train", progress=False)
    (tmp_path / "model.yaml").write_text(MODEL, encoding="utf-8")
    text = RECIPE.replace("WORLD", str(tmp_path / "shapes")).replace("MODEL", str(tmp_path / "model.yaml"))
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    ullava = f'#!/usr/bin/env bash\nexec {sys.executable} -m ullava "$@"\n'
    settings = ("eval_dataset={shapes_vqa: {limit: 4}}", "training.eval_strategy=steps", "training.eval_steps=2")
    line = ("run", "recipe.yaml", *settings, "training.save_steps=1000")
    first = job(ullava, 2, *line, "training.max_steps=5000")
    until = time.monotonic() + 400
    while not (tmp_path / "run" / "eval").is_dir() and first.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    for task in (tmp_path / "tasks").read_text().split():
        os.kill(int(task), signal.SIGTERM)
    assert first.wait(200) == 0, first.communicate()[1]
    assert (tmp_path / "queue").read_text() == "requeue 77\n"
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    steps = int(checkpoint.name.split("-")[1]) + 1
    assert job(ullava, 2, *line, f"training.max_steps={steps}").wait(400) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert (tmp_path / "queue").read_text() == "requeue 77\n"
