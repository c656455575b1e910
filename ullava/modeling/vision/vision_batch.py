"""Between a batch and the vision strategy: what stands around its items, and what it hands back to be passed on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ullava.errors import UserError
from ullava.examples import ModelInputs, Views, VisualInputs
from ullava.modeling.vision.strategy import EncodeContext, VisionOutput


def views_of(visual: VisualInputs | None, kind: str) -> Views:
    """The views of the distinct images or videos (``kind``, for the message). Raises UserError where there are none."""
    if visual is None:
        raise UserError(f"the batch holds no {kind}")
    return visual.views


def context_of(inputs: ModelInputs, visual: VisualInputs | None, words: torch.Tensor | None) -> EncodeContext:
    """What stands around the items ``visual``; ``words`` [B, T, D] are the embeddings of the instructions."""
    asked = inputs.instructions
    grounded = None if asked is None else asked.grounded
    return EncodeContext(
        places=() if visual is None else tuple(visual.index.tolist()),
        rows=() if visual is None or visual.row is None else tuple(visual.row.tolist()),
        words=words,
        word_mask=None if asked is None else asked.mask,
        overrides=inputs.overrides,
        generator=inputs.generator,
        grounded=() if grounded is None else tuple(grounded.tolist()),
    )


def summed_aux(outputs: Iterable[VisionOutput]) -> dict[str, torch.Tensor] | None:
    """Add up the named loss terms; None where nothing was encoded."""
    total: dict[str, torch.Tensor] | None = None
    for output in outputs:
        total = total or {}
        for name, value in output.aux.items():
            total[name] = total[name] + value if name in total else value
    return total


def chosen_by(
    names: Sequence[str], images: VisionOutput | None, videos: VisionOutput | None, inputs: ModelInputs, rows: int
) -> list[dict[str, tuple[int, ...]]]:
    """What the strategy chose (``VisionStrategy.choices``) for each image, then each video, of every row, by name."""
    chosen: list[dict[str, tuple[int, ...]]] = [{} for _ in range(rows)]
    for visual, seen in ((inputs.images, images), (inputs.videos, videos)):
        if seen is None or visual is None or visual.row is None:
            continue
        index = visual.index.tolist()
        for place, row in enumerate(visual.row.tolist()):
            for name in names:
                value = int(seen.diagnostics[name][place if seen.per_place else index[place]])
                chosen[row][name] = (*chosen[row].get(name, ()), value)
    return chosen


def told_by(images: VisionOutput | None, videos: VisionOutput | None) -> dict[str, Any] | None:
    """What the strategy tells about images, and about videos as ``video_<name>``; None where it tells nothing."""
    told: dict[str, Any] = dict(images.diagnostics) if images is not None else {}
    if videos is not None:
        told.update({f"video_{name}": value for name, value in videos.diagnostics.items()})
    return told or None
