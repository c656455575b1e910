"""How fast samples come: annotation -> picture -> views, SAM picture, tokens, masks -> batch."""

from __future__ import annotations

import gc
import time
from typing import Any

from torch.utils.data import DataLoader

from ullava.benchmarks.networks import Network
from ullava.benchmarks.timing import Figure, Reading, cpu_seconds, measure
from ullava.benchmarks.workload import Workload
from ullava.data.collate import Collator
from ullava.data.encode import EncodedMixture

BATCH = 4
WORKERS = (1, 2)


def bench_data(network: Network, workload: Workload, *, samples: int, repeats: int) -> list[Figure]:
    """Time ``samples`` samples in this process, their collating alone, and through loader workers."""
    processor = network.processor
    dataset = EncodedMixture(workload.mixture(), processor)
    collate = Collator(processor.tokenizer.pad_token_id, processor.sam_side)
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
        readings = tuple(_through_workers(dataset, collate, samples, workers) for _ in range(repeats))
        figures.append(
            Figure(f"sample through {workers} loader worker(s), {side}", "sample", readings, {"batch": BATCH})
        )
    return figures


def _through_workers(dataset: Any, collate: Collator, samples: int, workers: int) -> Reading:
    """Read one epoch of ``samples`` samples; wall time from the first batch on, so that starting workers is left out.

    CPU time is that of all processes together and is spread over all samples.
    """
    loader = DataLoader(dataset, batch_size=BATCH, sampler=range(samples), num_workers=workers, collate_fn=collate)
    cpu, batches = cpu_seconds(), iter(loader)
    first = next(batches)["input_ids"].shape[0]
    start, received = time.perf_counter(), 0
    for batch in batches:
        received += batch["input_ids"].shape[0]
    wall = time.perf_counter() - start
    del batches, batch
    gc.collect()  # the workers have to end before their CPU time is known
    spent = cpu_seconds() - cpu
    return Reading(spent * received / (received + first), wall, received)
