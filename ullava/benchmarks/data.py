"""How fast samples come: annotation -> image -> views, SAM image, tokens, masks -> batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import active_children
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from ullava.batching.collate import Collator
from ullava.benchmarks.networks import Network
from ullava.benchmarks.shards import measure_shards
from ullava.benchmarks.store import measure_store
from ullava.benchmarks.timing import Figure, Reading, cpu_seconds, cpu_seconds_of, measure, surroundings
from ullava.benchmarks.workload import Workload
from ullava.data.loading.encode import EncodedMixture
from ullava.examples import Batch
from ullava.training.loop.batches import KEY, TrainingCollator, batch_of

BATCH = 4
WORKERS = (1, 2)


def bench_data(network: Network, workload: Workload, *, samples: int, repeats: int) -> list[Figure]:
    """Time ``samples`` samples in this process, their collating alone, and through loader workers."""
    processor = network.processor
    dataset = EncodedMixture(workload.mixture(), processor)
    collate = Collator(processor.tokenizer.pad_token_id)
    side = f"SAM {processor.sam_side}"
    groups = [range(start, min(start + BATCH, samples)) for start in range(0, samples, BATCH)]
    tokens = cast(torch.Tensor, collate([dataset[0]]).usable()[0].input_ids).shape[1]

    def in_process() -> float:
        for group in groups:
            collate([dataset[position] for position in group])
        return samples

    rows = [dataset[position] for position in groups[0]]

    def collate_alone() -> float:
        for _ in range(20):
            collate(rows)
        return 20

    figures = [
        measure(
            f"sample read, encoded and collated, {side}",
            "sample",
            in_process,
            repeats=repeats,
            tokens=tokens,
            batch=BATCH,
        ),
        measure(f"collate alone, {side}", "batch", collate_alone, repeats=repeats, batch=BATCH),
    ]
    return figures + _through_workers(dataset, collate, samples, repeats, side)


def bench_annotations(records: int, threads: int) -> dict[str, Any]:
    """Measure what ``records`` annotations cost in memory and time; see ``ullava.benchmarks.store``."""
    return _report("annotations", measure_store(records), threads)


def bench_shards(rows: int, threads: int) -> dict[str, Any]:
    """Measure what ``rows`` rows in shards cost in memory and time; see ``ullava.benchmarks.shards``."""
    return _report("shards", measure_shards(rows), threads)


def _report(benchmark: str, figures: dict[str, Any], threads: int) -> dict[str, Any]:
    report: dict[str, Any] = {"benchmark": benchmark} | surroundings(threads, repeats=1)
    report["results"] = {
        name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()
    }
    return report


@dataclass(frozen=True, slots=True)
class _Kept:
    """A collator whose batches stay in the worker: what the machine gives when nothing has to cross."""

    collate: Collator

    def __call__(self, rows: Sequence[Any]) -> dict[str, Batch]:
        return {KEY: Batch(inputs=None, targets=None, names=self.collate(rows).names)}


def _through_workers(dataset: Any, collate: Collator, samples: int, repeats: int, side: str) -> list[Figure]:
    """Read ``samples`` samples ``repeats`` times through loaders of 1 and of 2 workers, in turns.

    In turns, as a shared machine is not equally fast all the time. Beside the batches that cross, those that stay in
    the worker: how much two workers can gain at most here. Workers were started and warmed up before.
    """
    loaders = {
        (workers, crosses): DataLoader(
            dataset,
            batch_size=BATCH,
            sampler=range(samples),
            num_workers=workers,
            collate_fn=TrainingCollator(collate) if crosses else _Kept(collate),
            persistent_workers=True,
        )
        for crosses in (True, False)
        for workers in WORKERS
    }
    processes = {key: _warm_up(loader) for key, loader in loaders.items()}
    readings: dict[tuple[int, bool], list[Reading]] = {key: [] for key in loaders}
    for _ in range(repeats):
        for key, loader in loaders.items():
            readings[key].append(_read_all(iter(loader), processes[key]))
    return [_scaling(workers, crosses, readings, side) for crosses in (True, False) for workers in WORKERS]


def _warm_up(loader: Iterable[Any]) -> list[int]:
    """Start the workers of a loader, read all of its batches once and return the workers' processes."""
    before = {child.pid for child in active_children()}
    batches = iter(loader)
    started = [child.pid for child in active_children() if child.pid is not None and child.pid not in before]
    for _ in batches:
        pass
    return started


def _read_all(batches: Iterator[dict[str, Any]], processes: Sequence[int]) -> Reading:
    """Take all ``batches``; CPU time is that of this process and of the worker ``processes`` together."""
    cpu, wall = cpu_seconds() + sum(map(cpu_seconds_of, processes)), time.perf_counter()
    received = sum(len(batch_of(batch).names) for batch in batches)
    wall = time.perf_counter() - wall
    return Reading(cpu_seconds() + sum(map(cpu_seconds_of, processes)) - cpu, wall, received)


def _scaling(workers: int, crosses: bool, readings: dict[tuple[int, bool], list[Reading]], side: str) -> Figure:
    """The figure of some workers, with ``times_one_worker``: how much faster, the median over the turns."""
    what = f"sample through {workers} loader worker(s), {side}" + ("" if crosses else ", nothing sent")
    mine = readings[workers, crosses]
    facts: dict[str, Any] = {"batch": BATCH}
    if workers != WORKERS[0]:
        pairs = zip(readings[WORKERS[0], crosses], mine, strict=True)
        facts["times_one_worker"] = round(statistics.median(one.wall_s / more.wall_s for one, more in pairs), 3)
    return Figure(what, "sample", tuple(mine), facts)
