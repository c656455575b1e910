"""One benchmark by name -> what ``ullava bench --json`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from ullava.benchmarks.data import bench_data
from ullava.benchmarks.evaluation import bench_evaluation, bench_generation
from ullava.benchmarks.networks import PRESETS, Network, build_network
from ullava.benchmarks.shards import in_shards
from ullava.benchmarks.timing import Figure, surroundings
from ullava.benchmarks.training import bench_training
from ullava.benchmarks.workload import Workload, prepare
from ullava.data.loading.shard_writer import ShardFormat
from ullava.errors import UserError
from ullava.inference.devices import pick_device

IMAGES = 200
DATA_SAMPLES = 200
EVAL_IMAGES = 16


def run_benchmark(
    name: str,
    *,
    preset: str,
    threads: int,
    repeats: int,
    device: str,
    sam_sides: Sequence[int] | None = None,
    form: ShardFormat | None = None,
) -> tuple[dict[str, Any], list[Figure]]:
    """Run one benchmark; return its report as plain data, and its figures.

    ``sam_sides``: measure these sizes of SAM's square in place of the preset's (``peer`` only). ``form``: read the
    data from such shards, not from files.

    Raises:
        UserError: a size that SAM's patches do not divide, or an unusable device.
    """
    sides = tuple(sam_sides or PRESETS[preset])
    if preset != "peer" and sides != PRESETS[preset]:
        raise UserError(f"preset '{preset}' is measured at its own SAM side {PRESETS[preset][0]} only")
    wrong = [side for side in sides if side < 32 or side % 16]
    if wrong:
        raise UserError(f"--sam-sides: {wrong[0]} is not a multiple of 16 from 32 on")
    torch.set_num_threads(threads)
    place = pick_device(device)
    workload = prepare(IMAGES)
    report: dict[str, Any] = {"benchmark": name, "preset": preset, "device": place.type}
    report |= surroundings(threads, repeats)
    report["work"] = workload.stated() | ({} if form is None else {"in_shards": form})
    report["networks"] = []
    figures: list[Figure] = []
    for side in sides:
        network = build_network(preset, side, workload.annotations)
        torch.nn.Module.to(network.model, place)
        report["networks"].append(network.stated)
        with nullcontext(workload) if form is None else in_shards(workload, form) as read:
            figures += _figures(name, network, read, repeats)
    report["results"] = [figure.to_json() for figure in figures]
    return report, figures


def _figures(name: str, network: Network, workload: Workload, repeats: int) -> list[Figure]:
    if name == "data":
        return bench_data(network, workload, samples=DATA_SAMPLES, repeats=repeats)
    if name == "train":
        return bench_training(network, workload, repeats=repeats)
    if name == "eval":
        return bench_evaluation(network, workload, images=EVAL_IMAGES, repeats=repeats)
    return bench_generation(network, workload, repeats=repeats)
