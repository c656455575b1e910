"""The rows of a comparison as a table in Markdown and as one image: what quality costs, and what was chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ullava.atomic_write import whole

REPORT, TABLE, FIGURE = "comparison.json", "comparison.md", "comparison.png"

CHIEF: Mapping[str, tuple[str, ...]] = {
    "vqa": ("accuracy",),
    "res": ("cIoU", "P@0.5"),
    "rec": ("Acc@0.5",),
    "gres": ("gIoU",),
    "salient": ("mIoU",),
    "semantic": ("mIoU",),
    "caption": ("facts",),
}
"""Task -> the figures that the table has; of tasks that are not here, the first figure."""

COSTS = (("visual_tokens", "visual tokens"), ("encode_ms", "vision encoder, ms"), ("answer_ms", "answer, ms"))
PANEL_INCHES = (4.6, 3.6)

Row = Mapping[str, Any]


def figures_of(row: Row) -> dict[str, float]:
    """The chief figures of a contender by name: ``vqa accuracy`` and so on, in percent."""
    found: dict[str, float] = {}
    for result in row["results"]:
        names = CHIEF.get(result["task"]) or tuple(result["metrics"])[:1]
        for name in names:
            if name in result["metrics"]:
                found.setdefault(f"{result['task']} {name}", float(result["metrics"][name]))
    return found


def kinds_of(row: Row) -> dict[str, float]:
    """Accuracy by kind of question, in percent; empty where no data set tells kinds."""
    found: dict[str, float] = {}
    for result in row["results"]:
        if result["task"] == "vqa":
            found.update(result.get("details", {}))
    return found


def cost_of(row: Row, name: str) -> float:
    """One of the costs as a number."""
    value = row["cost"][name]
    return float(value["mean"] if isinstance(value, Mapping) else value)


def table_of(rows: Sequence[Row]) -> str:
    """A line for each contender: costs, chief figures, accuracy by kind of question, how it was trained."""
    figures = list(dict.fromkeys(name for row in rows for name in figures_of(row)))
    kinds = list(dict.fromkeys(kind for row in rows for kind in kinds_of(row)))
    head = ["contender", *(title for _, title in COSTS), *figures, *kinds, "steps", "core seconds"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        own, by_kind = figures_of(row), kinds_of(row)
        cells = [
            str(row["label"]),
            *(f"{cost_of(row, name):.1f}" for name, _ in COSTS),
            *(f"{own[name]:.1f}" if name in own else "" for name in figures),
            *(f"{by_kind[kind]:.0f}" if kind in by_kind else "" for kind in kinds),
            " + ".join(str(run.get("steps", "?")) for run in row["training"]),
            " + ".join(f"{run.get('spent', run.get('seconds', float('nan'))):.0f}" for run in row["training"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw_figure(rows: Sequence[Row], path: Path) -> None:
    """Quality against tokens and against seconds, accuracy by kind of question, and the levels that were chosen."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in rows for name in figures_of(row)))[:2]
    chosen = [row for row in rows if not row["overrides"] and "levels_by_kind" in row["cost"]]
    bars = [row for row in rows if not row["overrides"] and kinds_of(row)]
    columns = 2
    height = max(len(names), 1) + (1 if bars or chosen else 0)
    figure = Figure(figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * height), layout="tight")
    axes = figure.subplots(height, columns, squeeze=False)
    for line, name in enumerate(names):
        for column, (cost, title) in enumerate((COSTS[0], COSTS[2])):
            _points(axes[line][column], rows, name, cost, title)
    if bars or chosen:
        _kinds(axes[-1][0], bars)
        _levels(axes[-1][1], chosen)
    with whole(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=100)


def _points(axis: Any, rows: Sequence[Row], name: str, cost: str, title: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for row, color in zip(rows, _colors(rows), strict=True):
        found = figures_of(row)
        if name not in found:
            continue
        x = cost_of(row, cost)
        axis.scatter([x], [found[name]], color=color, marker="x" if row["overrides"] else "o")
        axis.annotate(row["label"], (x, found[name]), fontsize=7, xytext=(4, 3), textcoords="offset points")
    axis.set_xlabel(title)
    axis.set_ylabel(f"{name}, %")
    axis.set_xscale("log")
    axis.margins(x=0.18)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.3)


def _colors(rows: Sequence[Row]) -> Iterator[str]:
    """A color for each model; a model in other settings keeps its own."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    for row in rows:
        yield f"C{models.index(row['model']) % 10}"


def _kinds(axis: Any, rows: Sequence[Row]) -> None:
    """Bars of accuracy by kind of question for every contender without overrides."""
    kinds = list(dict.fromkeys(kind for row in rows for kind in kinds_of(row)))
    width = 0.8 / max(len(rows), 1)
    for place, row in enumerate(rows):
        values = [kinds_of(row).get(kind, 0.0) for kind in kinds]
        axis.bar(np.arange(len(kinds)) + (place - (len(rows) - 1) / 2) * width, values, width, label=row["label"])
    axis.set_xticks(range(len(kinds)), kinds, rotation=30, fontsize=8)
    axis.set_ylabel("accuracy, %")
    if rows:
        axis.legend(fontsize="x-small", ncols=3)
    axis.grid(alpha=0.3, axis="y")


def _levels(axis: Any, rows: Sequence[Row]) -> None:
    """For every kind of question, how often a router chose each granularity."""
    if not rows:
        axis.axis("off")
        return
    table: Mapping[str, Mapping[str, int]] = rows[0]["cost"]["levels_by_kind"]
    levels = sorted({int(level) for counts in table.values() for level in counts})
    bottom = np.zeros(len(table))
    for level in levels:
        shares = np.asarray(
            [100.0 * counts.get(str(level), 0) / max(sum(counts.values()), 1) for counts in table.values()]
        )
        axis.bar(range(len(table)), shares, bottom=bottom, label=f"{level} tokens a crop")
        bottom += shares
    axis.set_xticks(range(len(table)), list(table), rotation=30, fontsize=8)
    axis.set_ylabel(f"{rows[0]['label']}: chosen level, %")
    axis.set_ylim(0, 118)
    axis.legend(fontsize="x-small", ncols=len(levels), loc="upper center")
