"""What half a million annotations cost in memory and time, measured in processes of their own (Linux)."""

from __future__ import annotations

import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from ullava.benchmarks.timing import peak_memory_mib
from ullava.data.annotations.store import AnnotationStore
from ullava.errors import DataError

PEER_RECORDS = 500_000
TOUCHES = 100_000
WORKERS = 2
POINTS = 40
SENTENCES = 3
_OUTLINES = 2048
_MIB = 1 << 20


def measure_store(records: int = PEER_RECORDS, touches: int = TOUCHES) -> dict[str, Any]:
    """Write ``records`` synthetic RES annotations, convert them, open them, and read them in two forked workers.

    Sizes in MiB, times in seconds. ``held_mib`` is what opening adds to the resident memory of a process that has
    opened a small one, ``held_grouped_mib`` the same after grouping by image, mapped pages included.
    ``worker_*_growth_mib`` is what ``touches`` random reads add in each of two workers that run at the same time
    (``private``: pages that no other process shares; ``anonymous``: memory that belongs to no file). Pages of the
    mapped file that both have read count for neither: they are the system's cache.
    """
    if not Path("/proc/self/smaps_rollup").exists():
        raise DataError("the annotation benchmark reads /proc/self/smaps_rollup, which this system does not have")
    with tempfile.TemporaryDirectory(prefix="ullava-bench-") as folder:
        source = Path(folder) / "refer.json"
        started = time.perf_counter()
        write_annotations(source, records)
        figures: dict[str, Any] = {
            "work": f"{records} RES records, {POINTS}-point polygon, {SENTENCES} sentences; {touches} random reads",
            "records": records,
            "json_mib": source.stat().st_size / _MIB,
            "write_seconds": time.perf_counter() - started,
        }
        figures |= in_process(_convert, source)
        figures |= in_process(_open_and_read, source, touches)
    return figures


def write_annotations(path: Path, records: int, seed: int = 0) -> None:
    """Write a RefCOCO-like list (640 x 480 images, three objects each); there are 2048 different outlines."""
    rng = Random(seed)
    outlines = [_outline(rng) for _ in range(min(_OUTLINES, records))]
    words = ("left", "right", "red", "tall", "small", "person", "dog", "near", "the", "table", "with", "hat", "behind")
    with path.open("w", encoding="utf-8") as file:
        for number in range(records):
            polygon, bbox = outlines[rng.randrange(len(outlines))]
            record = {
                "image_path": f"train2014/COCO_train2014_{number // 3:012d}.jpg",
                "height": 480,
                "width": 640,
                "category": "person",
                "bbox": bbox,
                "sentences": [" ".join(rng.choices(words, k=11)) for _ in range(SENTENCES)],
            }
            text = json.dumps(record, separators=(",", ":"))
            file.write(f'{"," if number else "["}\n{text[:-1]},"segmentation":[{polygon}]}}')
        file.write("]\n")


def _outline(rng: Random) -> tuple[str, list[float]]:
    """Return a wavy ring of ``POINTS`` points as JSON, and its box as xywh in pixels."""
    center_x, center_y = rng.uniform(120, 520), rng.uniform(120, 360)
    angles = [2 * math.pi * step / POINTS for step in range(POINTS)]
    radii = [rng.uniform(60, 110) for _ in angles]
    xs = [round(center_x + r * math.cos(a), 2) for r, a in zip(radii, angles, strict=True)]
    ys = [round(center_y + r * math.sin(a), 2) for r, a in zip(radii, angles, strict=True)]
    flat = [value for point in zip(xs, ys, strict=True) for value in point]
    bbox = [min(xs), min(ys), round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2)]
    return json.dumps(flat, separators=(",", ":")), bbox


def in_process(work: Callable[..., dict[str, float]], *arguments: object) -> dict[str, float]:
    """Run ``work`` in a fresh process, so that nothing else is in the figures."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _convert(source: Path) -> dict[str, float]:
    _open_a_small_one()
    before = peak_memory_mib()
    started = time.perf_counter()
    store = AnnotationStore.open(source)
    seconds = time.perf_counter() - started
    peak = peak_memory_mib()
    return {
        "convert_seconds": seconds,
        "convert_peak_mib": peak - before,
        "arrow_mib": store.arrow.stat().st_size / _MIB,
    }


def _open_a_small_one() -> None:
    """Load what opening any store loads, so that figures are of the records alone."""
    with tempfile.TemporaryDirectory(prefix="ullava-bench-") as folder:
        source = Path(folder) / "small.json"
        write_annotations(source, 8)
        AnnotationStore.open(source).record(0)


def _open_and_read(source: Path, touches: int) -> dict[str, float]:
    _open_a_small_one()
    base = memory_mib()
    started = time.perf_counter()
    store = AnnotationStore.open(source)
    opened = time.perf_counter() - started
    held = memory_mib()
    started = time.perf_counter()
    groups = store.groups()
    figures = {
        "base_mib": base["Rss"],
        "open_seconds": opened,
        "held_mib": held["Rss"] - base["Rss"],
        "group_seconds": time.perf_counter() - started,
        "group_index_mib": sum(part.nbytes for part in groups) / _MIB,
        "held_grouped_mib": memory_mib()["Rss"] - base["Rss"],
    }
    growths = _read_in_workers(store, touches)
    for key in growths[0]:
        figures[key] = max(growth[key] for growth in growths)
    return figures


def _read_in_workers(store: AnnotationStore, touches: int) -> list[dict[str, float]]:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(WORKERS)
    pipes = [context.Pipe(duplex=False) for _ in range(WORKERS)]
    workers = [
        context.Process(target=_touch, args=(store, touches, seed, barrier, pipe[1])) for seed, pipe in enumerate(pipes)
    ]
    for worker, (_, sender) in zip(workers, pipes, strict=True):
        worker.start()
        sender.close()
    growths: list[dict[str, float]] = [receiver.recv() for receiver, _ in pipes]
    for worker in workers:
        worker.join()
    return growths


def _touch(store: AnnotationStore, touches: int, seed: int, barrier: Any, sender: Connection) -> None:
    """Read random records in a worker; report how its memory grew while all workers still hold theirs."""
    rng = Random(seed)
    store.record(0)
    barrier.wait()
    before = memory_mib()
    started = time.perf_counter()
    for _ in range(touches):
        store.record(rng.randrange(len(store)))
    seconds = time.perf_counter() - started
    barrier.wait()
    after = memory_mib()
    barrier.wait()
    sender.send(
        {
            "worker_private_growth_mib": after["Private"] - before["Private"],
            "worker_anonymous_growth_mib": after["Anonymous"] - before["Anonymous"],
            "worker_seconds": seconds,
        }
    )


def memory_mib() -> dict[str, float]:
    """Return the memory of this process in MiB: Rss, Private (clean and dirty), Anonymous."""
    fields = {}
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, value, *_ = line.split()
        fields[name.rstrip(":")] = int(value) / 1024
    private = fields["Private_Clean"] + fields["Private_Dirty"]
    return {"Rss": fields["Rss"], "Private": private, "Anonymous": fields["Anonymous"]}
