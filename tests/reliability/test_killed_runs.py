"""A run that is killed (kill -9) and resumed ends with the weights and the losses of an undisturbed one, to the bit.

Runs are killed right before their N-th change in the run folder: in the middle of a checkpoint, of an evaluation, of
``model/``, between the last checkpoint and the end. The short form tries some of these moments, the long one all of
them, moments by the clock, and runs that are killed again and again:

    python -m pytest tests/reliability/test_killed_runs.py
    python -m pytest tests/reliability/test_killed_runs.py -m exhaustive
"""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.reliability.killed_runs import run
from tests.unit.training.conftest import MODEL, RECIPE

SEED = 11
SETTINGS = (
    "eval_dataset={shapes_vqa: {limit: 2}}",
    "max_new_tokens=2",
    "training.eval_strategy=steps",
    "training.eval_steps=2",
    "training.save_steps=2",
    "training.max_steps=5",
    "training.save_total_limit=2",
    "training.logging_steps=2",
    "training.lr_scheduler_type=cosine",
)
KILLED = -signal.SIGKILL
DRAFTS = "checkpoints/.unfinished/checkpoint-"


@pytest.fixture(scope="module")
def start() -> Iterator[Any]:
    """Processes that come with everything imported, so that one costs the run alone."""
    context = multiprocessing.get_context("forkserver")
    needed = ["ullava.training.loop.run", "ullava.inference.predictor", "matplotlib.backends.backend_agg"]
    context.set_forkserver_preload([*needed, "tests.reliability.killed_runs"])
    yield context.Process


class Runs:
    """One undisturbed run, and others that are to end as it did."""

    def __init__(self, start: Any, folder: Path, recipe: Path) -> None:
        self.start, self.folder, self.recipe = start, folder, recipe
        self.number = 0
        assert self.train("whole") == 0, self.words()
        self.moments = Path(f"{self.transcript}.moments").read_text().split("\n")
        self.expected = self.results("whole")

    @property
    def transcript(self) -> Path:
        return self.folder / f"run-{self.number}"

    def words(self) -> str:
        """Return what the last run said."""
        return Path(f"{self.transcript}.out").read_text()

    def train(self, name: str, *extra: str, last: int | None = None, seconds: float | None = None) -> int:
        """Train into ``name``; kill it before change ``last``, or after ``seconds``. Returns the exit code."""
        self.number += 1
        out = self.folder / name
        line = ["train", str(self.recipe), *SETTINGS, "--out", str(out), *extra]
        process = self.start(target=run, args=(line, str(out), last, str(self.transcript)))
        process.start()
        process.join(seconds if seconds is not None else 300)
        if process.is_alive():
            process.kill()
            process.join()
        return int(process.exitcode)

    def finish(self, name: str) -> None:
        """Resume ``name`` to its end and compare."""
        resume = ["--resume"] if (self.folder / name).exists() and any((self.folder / name).iterdir()) else []
        assert self.train(name, *resume) == 0, self.words()
        found = self.results(name)
        assert found == self.expected, self.words()
        shutil.rmtree(self.folder / name)

    def results(self, name: str) -> dict[str, Any]:
        """Return what has to be equal: weights, losses and figures of every step, the last evaluation."""
        out = self.folder / name
        log = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
        metrics = json.loads((out / "metrics.json").read_text())
        hidden = [path.name for path in out.iterdir() if path.name.startswith(".")]
        return {
            "weights": (out / "model" / "model.safetensors").read_bytes(),
            "log": [line for line in log if "train_runtime" not in line],
            "results": metrics["results"],
            "steps": metrics["training"]["steps"],
            "unfinished": hidden,
            "files": sorted(path.name for path in out.iterdir()),
        }


@pytest.fixture(scope="module")
def runs(start: Any, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The undisturbed run."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "model.yaml").write_text(MODEL, encoding="utf-8")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.replace("WORLD", str(world)).replace("MODEL", str(folder / "model.yaml")))
    return Runs(start, folder, recipe)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic world of 12 images."""
    from ullava.synthetic.write import draw_world

    folder = tmp_path_factory.mktemp("world") / "shapes"
    draw_world(folder, 12, 5, "train")
    return folder


NAMED: dict[str, Callable[[str], bool]] = {
    "the state of the first checkpoint": lambda event: event.endswith("checkpoint-2/trainer_state.json"),
    "the evaluation before a checkpoint": lambda event: event.startswith("open eval/step-4/predictions"),
    "the files of the last checkpoint": lambda event: event.startswith(
        "open checkpoints/.unfinished/checkpoint-5/config"
    ),
    "model/": lambda event: event.startswith("open .model.new") and event.endswith("processor_config.json"),
}


@pytest.mark.parametrize("moment", NAMED)
def test_a_run_killed_at_a_named_moment_ends_as_if_it_had_not_been(runs: Runs, moment: str) -> None:
    last = next(number for number, event in enumerate(runs.moments, start=1) if NAMED[moment](event))
    assert runs.train("named", last=last) == KILLED
    runs.finish("named")


def test_a_checkpoint_gets_its_name_when_all_is_written_and_older_ones_go_after_that(runs: Runs) -> None:
    for step in (2, 4, 5):
        named = runs.moments.index(f"os.rename {DRAFTS}{step}")
        written = [number for number, event in enumerate(runs.moments) if f"{DRAFTS}{step}/" in event]
        assert len(written) > 8 and max(written) < named
    removed = runs.moments.index("shutil.rmtree checkpoints/checkpoint-2")
    assert runs.moments.index(f"os.rename {DRAFTS}5") < removed


def test_a_finished_run_stays_byte_for_byte(runs: Runs) -> None:
    out = runs.folder / "whole"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert runs.train("whole", "--resume") == 0
    assert "already finished after 5 steps" in runs.words() and len(runs.words().splitlines()) == 1
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_moment(runs: Runs) -> None:
    assert len(runs.moments) > 60
    for last in range(1, len(runs.moments) + 1):
        assert runs.train("each", last=last) == KILLED
        runs.finish("each")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_killed_again_and_again(runs: Runs) -> None:
    lots = random.Random(SEED)
    for _ in range(12):
        kills = 0
        while kills < 6:
            resume = ["--resume"] if (runs.folder / "often").exists() else []
            if runs.train("often", *resume, last=lots.randint(1, len(runs.moments))) != KILLED:
                break
            kills += 1
        runs.finish("often")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_killed_by_the_clock(runs: Runs) -> None:
    begun = time.monotonic()
    runs.train("timed")
    whole = time.monotonic() - begun
    shutil.rmtree(runs.folder / "timed")
    lots = random.Random(SEED)
    for _ in range(20):
        runs.train("timed", seconds=lots.uniform(0.1, whole))
        runs.finish("timed")
