"""Kinds of training runs that are killed at random moments, resumed until they are done, and compared to the bit.

    python -m tests.reliability.resumed_cells --kills 20 --stops 6 --seed 0 [--only NAME ...] [--keep DIR]

A kill is SIGKILL, by the clock or when the run folder shows that a checkpoint or an evaluation has begun. A stop is
SIGTERM at such a moment, whose exit code has to be 143. Of several processes all get the signal, or one does, and the
others are then ended as torchrun ends them. A line of the table is printed for each cell.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.reliability.results import Seen, differences, in_checkpoint, in_evaluation, seen
from tests.reliability.started import Started, wait_for
from tests.unit.training.conftest import MODEL, RECIPE

PRELOADED = (
    "ullava.training.loop.run",
    "ullava.inference.predictor",
    "ullava.evaluation.run",
    "matplotlib.backends.backend_agg",
    "peft",
    "torch.distributed",
    "tests.reliability.started",
)
SETTINGS = (
    "eval_dataset={shapes_vqa: {limit: 1}, shapes_res: {limit: 1}}",
    "max_new_tokens=2",
    "word_dropout=0.2",
    "training.per_device_train_batch_size=2",
    "training.eval_strategy=steps",
    "training.eval_steps=3",
    "training.save_steps=2",
    "training.save_total_limit=1",
    "training.max_steps=6",
    "training.logging_steps=3",
    "training.warmup_steps=2",
    "training.lr_scheduler_type=cosine",
)
LORA = ("init=BASE", "stage=ground", "lora={r: 2, dropout: 0.4}")
WORKERS = "training.dataloader_num_workers=2"
ACCUMULATED = "training.gradient_accumulation_steps=2"
PACKED = "packing.tokens=200"
BF16 = "training.bf16=true"
CACHED = ("parts={SAM image encoder: false}", "mask_cache.dir=CACHE")
EPOCHS = (
    "training.max_steps=-1",
    "training.num_train_epochs=2",
    "training.save_strategy=epoch",
    "training.eval_strategy=epoch",
    "dataset={shapes_res: {turns: 1, limit: 8}}",
)


@dataclass(frozen=True)
class Cell:
    """One kind of run: what it sets beside ``SETTINGS``, in how many processes."""

    settings: tuple[str, ...] = ()
    processes: int = 1


CELLS: dict[str, Cell] = {
    "fp32": Cell(),
    "fp32, 2 workers": Cell((WORKERS,)),
    "bf16": Cell((BF16,)),
    "bf16, 2 workers, accumulation": Cell((BF16, WORKERS, ACCUMULATED)),
    "fp32, accumulation, packing": Cell((ACCUMULATED, PACKED)),
    "bf16, 2 workers, accumulation, packing": Cell((BF16, WORKERS, ACCUMULATED, PACKED)),
    "fp32, LoRA": Cell(LORA),
    "bf16, 2 workers, LoRA, base in bfloat16": Cell((*LORA, BF16, WORKERS, "base_dtype=bfloat16")),
    "fp32, 2 workers, mask_cache": Cell((WORKERS, *CACHED)),
    "bf16, mask_cache, packing, LoRA": Cell((*LORA, BF16, PACKED, *CACHED)),
    "fp32, epochs, grouped by length": Cell((*EPOCHS, ACCUMULATED, "group_by_modality_length=true")),
    "fp32, 2 workers, muon": Cell((WORKERS, "optimizer.kind=muon")),
    "2 processes, fp32": Cell((), 2),
    "2 processes, bf16, 2 workers, accumulation, packing": Cell((BF16, WORKERS, ACCUMULATED, PACKED), 2),
    "2 processes, fp32, LoRA, mask_cache": Cell((*LORA, *CACHED), 2),
    "2 processes, fp32, FSDP2": Cell(("sharding=fsdp2",), 2),
    "3 processes, fp32": Cell((), 3),
}


@dataclass
class Tally:
    """What was done to the runs of a cell. ``where``: at which moments it fell; ``unequal``: what differed."""

    runs: int = 0
    where: Counter[str] = field(default_factory=Counter)
    stops: int = 0
    unequal: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """How many SIGKILLs there were."""
        return sum(self.where.values())

    def row(self, name: str) -> str:
        """Return the line of the table."""
        where = [self.where[moment] for moment in ("checkpoint", "evaluation")]
        equal = f"NO: {'; '.join(self.unequal)}" if self.unequal else "yes"
        return f"| {name} | {self.runs} | {self.kills} | {where[0]} | {where[1]} | {self.stops} | {equal} |"


HEAD = (
    "| cell | runs | kills | of them in a checkpoint | in an evaluation | SIGTERM | equal |\n"
    "|---|---|---|---|---|---|---|"
)


class World:
    """What all cells share: data, the description of a model with dropout, a base for adapters."""

    def __init__(self, folder: Path) -> None:
        from ullava.synthetic.write import draw_world

        self.folder = folder
        draw_world(folder / "shapes", 12, 5, "train", progress=False)
        dropping = MODEL.replace("model_type: llama,", "model_type: llama, attention_dropout: 0.3,")
        (folder / "model.yaml").write_text(dropping, encoding="utf-8")
        self.recipe = folder / "recipe.yaml"
        text = RECIPE.replace("WORLD", str(folder / "shapes")).replace("MODEL", str(folder / "model.yaml"))
        self.recipe.write_text(text, encoding="utf-8")
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(list(PRELOADED))

    def base(self) -> Path:
        """Return a trained model, which is made when it is first asked for."""
        run = self.folder / "base"
        if not (run / "model").is_dir():
            settings = ("eval_dataset={}", "training.eval_strategy=no", "training.max_steps=1")
            assert self.start(Cell(settings), run).ended() == [0]
        return run / "model"

    def start(self, cell: Cell, out: Path, *extra: str) -> Started:
        """Start a run of ``cell`` into ``out``."""
        told = {"BASE": str(self.base()) if "init=BASE" in cell.settings else "", "CACHE": str(out.parent / "cache")}
        settings = [*SETTINGS, *cell.settings]
        for word, value in told.items():
            settings = [line.replace(word, value) for line in settings]
        line = ["train", str(self.recipe), *settings, "--out", str(out), *extra]
        return Started(self.context, line, cell.processes, out.with_suffix(".out"))


class Trial:
    """One cell: its undisturbed run, and others that are killed and resumed."""

    def __init__(self, world: World, cell: Cell, folder: Path, seed: int) -> None:
        self.world, self.cell = world, cell
        self.run, self.whole = folder / "run", folder / "whole"
        self.lots = random.Random(seed)
        self.tally = Tally()
        folder.mkdir(parents=True)
        begun = time.monotonic()
        started = world.start(cell, self.run)
        assert set(started.ended()) == {0}, started.words()
        self.seconds = time.monotonic() - begun
        self.run.rename(self.whole)

    def disturb(self, kills: int, stops: int, in_a_run: int = 5) -> Tally:
        """Kill ``kills`` times and stop ``stops`` times, at most ``in_a_run`` of them in one run; compare each."""
        while self.tally.kills < kills or self.tally.stops < stops:
            self._one_run(kills, stops, in_a_run)
        return self.tally

    def _one_run(self, kills: int, stops: int, in_a_run: int) -> None:
        shutil.rmtree(self.run.parent / "cache", ignore_errors=True)
        done = 0
        while True:
            begun = self.run.is_dir() and any(self.run.iterdir())
            before = seen(self.run)
            started = self.world.start(self.cell, self.run, *(["--resume"] if begun else []))
            left = [kills - self.tally.kills, stops - self.tally.stops]
            if done == in_a_run or sum(left) <= 0:
                codes = started.ended()
            else:
                number = signal.SIGKILL if self.lots.random() * sum(left) < left[0] else signal.SIGTERM
                codes = self._signal(started, number, before)
                done += 1
            if set(codes) == {0}:
                break
            if {1, 2} & set(codes) and not started.lost_a_peer:
                self.tally.unequal.append(f"exit codes {codes}: {started.words()[-600:]}")
                shutil.rmtree(self.run)
                return
        self.tally.runs += 1
        self.tally.unequal += differences(self.whole, self.run)
        shutil.rmtree(self.run)

    def _signal(self, started: Started, number: signal.Signals, before: Seen) -> list[int]:
        """Wait for a moment, send the signal, and return the exit codes. ``before``: what lay there at the start."""
        moment = self.lots.choice(("clock", "checkpoint", "evaluation"))
        files = self.lots.randint(0, 10)
        after = self.lots.uniform(0.0, self.seconds)
        match moment:
            case "clock":
                wait_for(lambda: False, started, after)
            case "checkpoint":
                wait_for(lambda: in_checkpoint(self.run, before, files), started)
            case _:
                wait_for(lambda: in_evaluation(self.run, before), started)
        alone = started.processes > 1 and self.lots.random() < 0.5
        codes = started.signal(number, self.lots.randrange(started.processes) if alone else None, self.lots)
        if number == signal.SIGTERM:
            self.tally.stops += set(codes) != {0}
            wrong = [code for code in codes if code not in (0, 143, -signal.SIGTERM)]
            if wrong and not started.lost_a_peer:
                self.tally.unequal.append(f"exit codes {codes} after SIGTERM: {started.words()[-600:]}")
        elif set(codes) != {0}:
            inside = "checkpoint" if in_checkpoint(self.run, before) else None
            inside = inside or ("evaluation" if in_evaluation(self.run, before) else "clock")
            self.tally.where[inside] += 1
        return codes


def main() -> int:
    """Try the cells and print the table; 1 where a run was not equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--keep", type=Path, help="keep the runs here")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="resumed_")) if options.keep is None else options.keep
    world = World(folder)
    print(HEAD, flush=True)
    bad = 0
    for number, name in enumerate(options.only):
        trial = Trial(world, CELLS[name], folder / f"cell-{number}", options.seed)
        tally = trial.disturb(options.kills, options.stops)
        bad += bool(tally.unequal)
        print(tally.row(name), flush=True)
    if options.keep is None:
        shutil.rmtree(folder)
    return int(bad > 0)


if __name__ == "__main__":
    status: Any = main()
    sys.stdout.flush()
    os._exit(status)
