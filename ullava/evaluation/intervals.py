"""Bootstrap intervals: images drawn again with replacement, because the questions of one image go together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ullava.evaluation.metrics.rows import Metric

SEED = 20240611
LEVEL = 95.0


def bootstrap(records: Sequence[Mapping[str, Any]], kind: type[Metric], resamples: int) -> dict[str, list[float]]:
    """Return for each figure the [low, high] of its central 95 % over ``resamples`` draws of images, in percent.

    A video counts like an image; records without either are drawn one by one. Empty for metrics that need the whole
    set (AP, CIDEr).
    """
    if not kind.resamples or resamples < 1 or not records:
        return {}
    images: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        images[record["image"] or record.get("video") or f"#{record['id']}"].append(record["scores"])
    groups = [images[name] for name in sorted(images)]
    rng = np.random.default_rng(SEED)
    drawn: dict[str, list[float]] = defaultdict(list)
    for _ in range(resamples):
        rows = [row for place in rng.integers(len(groups), size=len(groups)) for row in groups[place]]
        for name, value in kind(rows).compute().items():
            drawn[name].append(value)
    tail = (100.0 - LEVEL) / 2
    return {name: np.percentile(values, [tail, 100.0 - tail]).tolist() for name, values in drawn.items()}
