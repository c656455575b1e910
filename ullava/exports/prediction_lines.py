"""Predictions as JSON Lines: one line for each question about each image, for scripts that evaluate expressions.

``idx``, ``image_path``, ``box`` and ``mask`` are the names that GroundingSuite's evaluation reads (its README);
``prompt``, ``score`` and ``objects`` go beyond them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ullava.atomic_write import write_whole
from ullava.exports.collection import Collection, Thing
from ullava.exports.settings import Settings
from ullava.geometry import rle_encode


def write_prediction_lines(collection: Collection, out: Path, settings: Settings) -> list[str]:
    """Write ``predictions.jsonl``.

    ``box`` is that of the object of the highest score, [x0, y0, x1, y1] in pixels; ``mask`` the union of all masks, as
    run-length code of COCO: what ``ullava eval`` judges. Both are null where nothing was found.
    """
    lines = []
    for image in collection.images:
        for question, prompt in image.questions:
            things = [thing for thing in image.things if thing.question == question]
            best = max(things, key=lambda thing: thing.score, default=None)
            masks = [thing.bitmap() for thing in things if thing.mask is not None]
            line: dict[str, Any] = {
                "idx": question,
                "image_path": image.given,
                "prompt": prompt,
                "box": None if best is None else list(best.own_box_xyxy_px),
                "mask": rle_encode(np.logical_or.reduce(masks)) if masks else None,
                "score": None if best is None else best.score,
                "objects": [_object(thing, collection.classes) for thing in things],
            }
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_whole(out / "predictions.jsonl", "".join(lines))
    return []


def _object(thing: Thing, classes: list[str]) -> dict[str, Any]:
    return {
        "class": classes[thing.label], "phrase": thing.phrase, "group": thing.group, "score": thing.score,
        "box": list(thing.own_box_xyxy_px), "mask": thing.mask,
    }  # fmt: skip
