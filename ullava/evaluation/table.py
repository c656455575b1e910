"""The results as a table for the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEAD = ("dataset", "split", "task", "n", "skipped", "metrics (%)")


def result_table(metrics: Mapping[str, Any]) -> str:
    """Return one line for each result of a ``metrics.json``: what it is on, and its figures."""
    rows = [_HEAD, *(_cells(result) for result in metrics["results"])]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_HEAD) - 1)]
    lines = [f"{metrics['model']}, protocol {metrics['protocol']}"]
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        lines.append("  ".join([*left, row[-1]]).rstrip())
    return "\n".join(lines)


def _cells(result: Mapping[str, Any]) -> tuple[str, ...]:
    intervals = result.get("intervals", {})
    figures = []
    for name, value in result["metrics"].items():
        low_high = intervals.get(name)
        spread = f" [{low_high[0]:.2f}, {low_high[1]:.2f}]" if low_high else ""
        figures.append(f"{name} {value:.2f}{spread}")
    counts = str(result["n"]), str(result["skipped"])
    return (
        result["dataset"],
        result["split"],
        result["task"],
        *counts,
        "  ".join(figures) or result.get("note", "nothing to score"),
    )
