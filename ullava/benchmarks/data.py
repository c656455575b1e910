"""How fast samples come: annotation -> picture -> views, SAM picture, tokens, masks -> batch."""

from __future__ import annotations

import time
from multiprocessing import active_children
from typing import Any

from torch.utils.data import DataLoader

from ullava.benchmarks.networks import Network
from ullava.benchmarks.timing import Figure, Reading, cpu_seconds, cpu_seconds_of, measure, surroundings
from ullava.benchmarks.workload import Workload
from ullava.data.collate import Collator
from ullava.data.encode import EncodedMixture
from ullava.data.store_bench import measure_store

BATCH = 4
WORKERS = (1, 2)


def bench_data(network: Network, workload: Workload, *, samples: int, repeats: int) -> list[Figure]:
    """Time ``samples`` samples in this process, their collating alone, and through loader workers."""
    processor = network.processor
    dataset = EncodedMixture(workload.mixture(), processor)
    collate = Collator(processor.tokenizer.pad_token_id)
    side = f"SAM {processor.sam_side}"
    groups = [range(start, min(start + BATCH, samples)) for start in range(0, samples, BATCH)]
    tokens = len(dataset[0].input_ids)

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
    for workers in WORKERS:
        readings = _through_workers(dataset, collate, samples, workers, repeats)
        figures.append(
            Figure(f"sample through {workers} loader worker(s), {side}", "sample", readings, {"batch": BATCH})
        )
    return figures


def bench_annotations(records: int, threads: int) -> dict[str, Any]:
    """Measure what ``records`` annotations cost in memory and time; see ``ullava.data.store_bench``."""
    report: dict[str, Any] = {"benchmark": "annotations"} | surroundings(threads, repeats=1)
    figures = measure_store(records)
    report["results"] = {
        name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()
    }
    return report


def _through_workers(dataset: Any, collate: Collator, samples: int, workers: int, repeats: int) -> tuple[Reading, ...]:
    """Read ``samples`` samples ``repeats`` times through workers that have been started and warmed up before.

    CPU time is that of all processes together.
    """
    loader = DataLoader(
        dataset,
        batch_size=BATCH,
        sampler=range(samples),
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=True,
    )
    others = {child.pid for child in active_children()}
    readings = []
    for _ in range(1 + repeats):
        batches = iter(loader)
        processes = [child.pid for child in active_children() if child.pid not in others and child.pid is not None]
        cpu, wall = cpu_seconds() + sum(map(cpu_seconds_of, processes)), time.perf_counter()
        received = sum(len(batch["names"]) for batch in batches)
        wall = time.perf_counter() - wall
        readings.append(Reading(cpu_seconds() + sum(map(cpu_seconds_of, processes)) - cpu, wall, received))
    return tuple(readings[1:])
