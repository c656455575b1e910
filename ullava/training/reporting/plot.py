"""``curve.png``: the losses of a run over its steps, and the figures of its evaluations below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ullava.atomic_write import whole

PANEL_INCHES = (8.0, 3.6)


def draw_curve(lines: Sequence[Mapping[str, Any]], path: Path, title: str) -> bool:
    """Draw the lines of train_log.jsonl; return False (and write nothing) where there is no loss yet."""
    from matplotlib.figure import Figure

    losses = _series(lines, "loss")
    figures = {name[len("eval_") :]: points for name, points in _series(lines, "eval_").items()}
    figures = {name: points for name, points in figures.items() if not name.endswith("_n")}
    if not losses:
        return False
    rows = 2 if figures else 1
    figure = Figure(figsize=(PANEL_INCHES[0], PANEL_INCHES[1] * rows), layout="tight")
    axes = figure.subplots(rows, 1, squeeze=False)
    _panel(axes[0][0], losses, "loss")
    axes[0][0].set_yscale("log")
    axes[0][0].set_title(title)
    if figures:
        _panel(axes[1][0], figures, "evaluation")
    axes[-1][0].set_xlabel("optimizer step")
    with whole(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)
    return True


def _series(lines: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, list[tuple[int, float]]]:
    """Collect (step, value) by name for every numeric field that starts with ``prefix``."""
    series: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name.startswith(prefix) and isinstance(value, (int, float)):
                series.setdefault(name, []).append((int(line["step"]), float(value)))
    return series


def _panel(axis: Any, series: Mapping[str, Sequence[tuple[int, float]]], label: str) -> None:
    for name, points in sorted(series.items()):
        positive = [(step, value) for step, value in points if label != "loss" or value > 0]
        if positive:
            marker = "o" if len(positive) < 3 else None
            axis.plot([step for step, _ in positive], [value for _, value in positive], label=name, marker=marker)
    axis.set_ylabel(label)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="x-small", ncols=2)
