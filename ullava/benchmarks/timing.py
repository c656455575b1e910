"""Timing: CPU seconds of this process and its children, wall seconds, medians, and where they were taken."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import psutil

try:
    import resource as _resource
except ImportError:  # Windows has none: psutil tells it, in coarser steps
    _resource: Any = None  # type: ignore[no-redef]

if TYPE_CHECKING:
    import torch

MIB = 1024 * 1024
PACKAGES = ("torch", "transformers", "numpy", "pillow", "pyarrow")


@dataclass(frozen=True, slots=True)
class Reading:
    """One pass: seconds of CPU and wall, and how many units (samples, steps, tokens) they bought."""

    cpu_s: float
    wall_s: float
    units: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a result: milliseconds for each ``unit``, medians over the passes, with ``facts`` beside them."""

    what: str
    unit: str
    readings: tuple[Reading, ...]
    facts: dict[str, Any]

    @property
    def cpu_ms(self) -> float:
        """Median CPU milliseconds for one unit."""
        return statistics.median(1000 * reading.cpu_s / reading.units for reading in self.readings)

    @property
    def wall_ms(self) -> float:
        """Median wall milliseconds for one unit."""
        return statistics.median(1000 * reading.wall_s / reading.units for reading in self.readings)

    def to_json(self) -> dict[str, Any]:
        """Return the figure as plain data, every pass included."""
        return {
            "what": self.what,
            "unit": f"ms/{self.unit}",
            "cpu": round(self.cpu_ms, 3),
            "wall": round(self.wall_ms, 3),
            "units_per_second_wall": round(1000 / self.wall_ms, 3),
            "cpu_each": [round(1000 * reading.cpu_s / reading.units, 3) for reading in self.readings],
            "wall_each": [round(1000 * reading.wall_s / reading.units, 3) for reading in self.readings],
            **self.facts,
        }


def cpu_seconds() -> float:
    """CPU seconds, user and system, of this process and of those children that have ended."""
    if _resource is None:
        ticks = psutil.Process().cpu_times()
        return float(sum(ticks[:4]))  # user, system, and those of the children
    spent = [_resource.getrusage(who) for who in (_resource.RUSAGE_SELF, _resource.RUSAGE_CHILDREN)]
    return float(sum(usage.ru_utime + usage.ru_stime for usage in spent))


def peak_memory_mib() -> float:
    """The most memory that this process has held so far, in MiB; Linux counts in KiB, macOS in bytes."""
    if _resource is None:
        return float(psutil.Process().memory_info().peak_wset) / MIB
    most = _resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss
    return float(most) / (MIB if sys.platform == "darwin" else MIB / 1024)


def cpu_seconds_of(process: int) -> float:
    """CPU seconds, user and system, of another process that still runs, in the system's steps (Linux: 10 ms)."""
    ticks = psutil.Process(process).cpu_times()
    return float(ticks.user + ticks.system)


def read_pass(work: Callable[[], float]) -> Reading:
    """Run ``work`` once; it returns how many units it did."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    units = work()
    return Reading(cpu_seconds() - cpu, time.perf_counter() - wall, units)


def measure(
    what: str, unit: str, work: Callable[[], float], *, repeats: int, warm_up: bool = True, **facts: Any
) -> Figure:
    """Run ``work`` ``repeats`` times (once more before, unmeasured, with ``warm_up``) and keep every reading."""
    if warm_up:
        work()
    return Figure(what, unit, tuple(read_pass(work) for _ in range(repeats)), facts)


def surroundings(threads: int, repeats: int) -> dict[str, Any]:
    """Where and with what the figures were taken."""
    return {
        "threads": threads,
        "repeats": repeats,
        "statistic": "median",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "load_1_min": round(psutil.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def processor_name() -> str:
    """The processor's name as Linux gives it, else what Python knows."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as text, one line each."""
    width = max(len(figure.what) for figure in figures)
    lines = [f"{'':<{width}}  {'CPU':>12}  {'wall':>12}"]
    for figure in figures:
        unit = f"ms/{figure.unit}"
        lines.append(f"{figure.what:<{width}}  {figure.cpu_ms:>12.2f}  {figure.wall_ms:>12.2f}  {unit}")
    return "\n".join(lines)


def wait_for(device: torch.device) -> None:
    """An accelerator works behind our back; time stops only when it is through."""
    if device.type != "cpu":
        from torch import accelerator

        accelerator.synchronize(device)
