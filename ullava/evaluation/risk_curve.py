"""``risk_coverage.json`` and ``risk_coverage.png``: how wrong answers are when only the surest ones are given.

The file is ``{label: curve}`` with the curves of ``ullava.evaluation.metrics.selective.risk_coverage``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ullava.atomic_write import whole, write_json

FILE, PICTURE = "risk_coverage.json", "risk_coverage.png"
INCHES = (7.0, 4.4)


def write_curves(curves: Mapping[str, Mapping[str, Any]], folder: Path) -> bool:
    """Write both files into ``folder``; return False (and write nothing) where there is no curve."""
    if not curves:
        return False
    write_json(folder / FILE, dict(curves))
    _draw(curves, folder / PICTURE)
    return True


def _draw(curves: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, layout="tight")
    axis = figure.subplots()
    for label, curve in curves.items():
        coverage = [100 * share for share in curve["coverage"]]
        risk = [100 * share for share in curve["risk"]]
        axis.plot(
            coverage, risk, label=f"{label}: AURC {100 * curve['AURC']:.1f}", marker="o" if len(risk) < 3 else None
        )
    axis.set_xlim(0, 100)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("coverage: the surest answers, %")
    axis.set_ylabel("risk: mean loss, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="x-small")
    with whole(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)
