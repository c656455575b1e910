"""What many rows in shards cost: to index once, to open, to find a position in, to read (Linux); images in shards."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from ullava.benchmarks.store import in_process, memory_mib
from ullava.benchmarks.timing import cpu_seconds
from ullava.benchmarks.workload import Workload
from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_mixture
from ullava.data.loading.shard_writer import ShardFormat, write_shards
from ullava.errors import DataError

ROWS_PER_SHARD = 100_000
GROUP_ROWS = 10_000
IMAGES_PER_SHARD = 50
TOUCHES = 20_000
PATTERN = "rows-{{000000..{last:06d}}}.parquet"
DATASET = "llava_instruct"
_SEED = 1
_MIB = 1 << 20


def measure_shards(rows: int) -> dict[str, Any]:
    """Write ``rows`` dialogues of text as Parquet shards, index them, open them and read some, each in a new process.

    Times in seconds, sizes in MiB. ``open_*`` is from the names in a recipe to a mixture that can be asked for a
    position; ``open_held_mib`` is what that adds to the resident memory of a process that opened a small set before,
    mapped pages included. ``read_*`` is after ``TOUCHES`` samples at positions of an epoch, which the seed scatters.
    """
    if not Path("/proc/self/smaps_rollup").exists():
        raise DataError("the benchmark of shards reads /proc/self/smaps_rollup, which this system does not have")
    touches = min(TOUCHES, rows)
    with tempfile.TemporaryDirectory(prefix="ullava-bench-") as name:
        folder = Path(name)
        started = time.perf_counter()
        pattern = write_text_shards(folder / "many", rows)
        figures: dict[str, Any] = {
            "work": f"{rows} dialogues of text in Parquet shards of {ROWS_PER_SHARD}; {touches} samples read",
            "rows": rows,
            "write_seconds": time.perf_counter() - started,
            "shards_mib": sum(path.stat().st_size for path in pattern.parent.iterdir()) / _MIB,
        }
        small = write_text_shards(folder / "small", 8)
        figures |= in_process(_index, pattern)
        figures |= in_process(_open_and_read, pattern, small, touches)
    return figures


@contextmanager
def in_shards(workload: Workload, form: ShardFormat) -> Iterator[Workload]:
    """Give the same images and annotations as shards in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="ullava-bench-") as name:
        out = Path(name) / "shards"
        write_shards(workload.descriptor, [], workload.folder, out, rows_per_shard=IMAGES_PER_SHARD, form=form)
        yield replace(workload, folder=out)


def write_text_shards(folder: Path, rows: int) -> Path:
    """Write dialogues of a question and an answer; return the pattern of the shards."""
    folder.mkdir()
    last = (rows - 1) // ROWS_PER_SHARD
    for number in range(last + 1):
        first = number * ROWS_PER_SHARD
        numbers = pa.array(range(first, min(first + ROWS_PER_SHARD, rows))).cast(pa.string())
        table = pa.table({"record": pc.binary_join_element_wise(*_around(numbers), "")})
        parquet.write_table(table, folder / f"rows-{number:06d}.parquet", row_group_size=GROUP_ROWS)
    return folder / PATTERN.format(last=last)


def _around(numbers: pa.Array) -> list[Any]:
    """Return the pieces of a record's JSON, the number of its row between them."""
    turns = [{"from": "human", "value": "What comes after @?"}, {"from": "gpt", "value": "Not @."}]
    pieces = json.dumps({"id": "@", "conversations": turns}, separators=(",", ":")).split("@")
    return [part for piece in pieces for part in (numbers, piece)][1:]


def _mixture(pattern: Path) -> Any:
    return build_mixture({DATASET: DatasetEntry(annotations=str(pattern), task="text")}, pattern.parent, _SEED)


def _index(pattern: Path) -> dict[str, float]:
    cpu, started = cpu_seconds(), time.perf_counter()
    store = _mixture(pattern).datasets[0].origin.store
    return {
        "index_seconds": time.perf_counter() - started,
        "index_cpu_seconds": cpu_seconds() - cpu,
        "index_mib": store.arrow.stat().st_size / _MIB,
        "index_most_held_mib": memory_mib()["Rss"],
    }


def _open_and_read(pattern: Path, small: Path, touches: int) -> dict[str, float]:
    _mixture(small).sample(0)
    base, cpu, started = memory_mib(), cpu_seconds(), time.perf_counter()
    mixture = _mixture(pattern)
    mixture.locate(len(mixture) - 1)
    opened = time.perf_counter() - started
    figures = {
        "open_seconds": opened,
        "open_cpu_seconds": cpu_seconds() - cpu,
        "open_held_mib": memory_mib()["Rss"] - base["Rss"],
    }
    cpu = cpu_seconds()
    for place in range(touches):
        mixture.sample(place)
    return figures | {
        "read_cpu_ms_each": 1000 * (cpu_seconds() - cpu) / touches,
        "read_held_mib": memory_mib()["Rss"] - base["Rss"],
        "read_anonymous_mib": memory_mib()["Anonymous"] - base["Anonymous"],
    }
