"""Between a batch and the vision strategy: which keys are its, and what it hands back to be passed on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ullava.modeling.vision.strategy import EncodeContext, VisionOutput

Batch = Mapping[str, Any]

PIXELS = ("pixel_values", "video_pixel_values")
"""Starts of the keys of views; see UllavaForConditionalGeneration."""
BATCH_KEYS = frozenset(
    {f"{kind}_{what}" for kind in ("image", "video") for what in ("index", "counts", "row")}
    | {"instruction_ids", "instruction_mask", "grounded_rows", "force", "generator"}
    | {"sam_pixel_values", "sam_sizes", "sam_index", "sam_embeddings", "content_only"}
    | {"box_pixel_values", "box_sizes", "box_index"}
)
"""Keys beside views and text that generation takes too."""


def views_of(batch: Batch, kind: str) -> dict[str, Any]:
    """The views of the distinct pictures (``image``) or videos (``video``) by name; the key without a name is ``base``.

    See ``Views`` of the strategy's contract.
    """
    base = "pixel_values" if kind == "image" else "video_pixel_values"
    others = {key.removeprefix(f"{base}_"): value for key, value in batch.items() if key.startswith(f"{base}_")}
    return {"base": batch[base], **others}


def context_of(batch: Batch, kind: str, words: torch.Tensor | None) -> EncodeContext:
    """What stands around the items of a kind; ``words`` [B, T, D] are the embeddings of ``instruction_ids``."""
    index, row = batch.get(f"{kind}_index"), batch.get(f"{kind}_row")
    return EncodeContext(
        places=() if index is None else tuple(index.tolist()),
        rows=() if row is None else tuple(row.tolist()),
        words=words,
        word_mask=batch.get("instruction_mask"),
        force=batch.get("force") or {},
        generator=batch.get("generator"),
        grounded=() if batch.get("grounded_rows") is None else tuple(batch["grounded_rows"].tolist()),
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
    names: Sequence[str], images: VisionOutput | None, videos: VisionOutput | None, batch: Batch, rows: int
) -> list[dict[str, tuple[int, ...]]]:
    """What the strategy chose (``VisionStrategy.choices``) for each picture, then each video, of every row, by name."""
    chosen: list[dict[str, tuple[int, ...]]] = [{} for _ in range(rows)]
    for kind, seen in (("image", images), ("video", videos)):
        if seen is None or f"{kind}_row" not in batch:
            continue
        index = batch[f"{kind}_index"].tolist()
        for place, row in enumerate(batch[f"{kind}_row"].tolist()):
            for name in names:
                value = int(seen.diagnostics[name][place if seen.per_place else index[place]])
                chosen[row][name] = (*chosen[row].get(name, ()), value)
    return chosen


def told_by(images: VisionOutput | None, videos: VisionOutput | None) -> dict[str, Any] | None:
    """What the strategy tells about pictures, and about videos as ``video_<name>``; None where it tells nothing."""
    told: dict[str, Any] = dict(images.diagnostics) if images is not None else {}
    if videos is not None:
        told.update({f"video_{name}": value for name, value in videos.diagnostics.items()})
    return told or None
