"""What the heads gave, as tensors in the shape of transformers' own post-processing (SAM 3's conventions)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ullava.errors import UserError
from ullava.modeling.heads.mask_contract import MaskRules

Instances = dict[str, torch.Tensor]


def instances_of(
    rules: MaskRules,
    outputs: Any,
    threshold: float,
    mask_threshold: float,
    target_sizes: Sequence[Sequence[int]] | torch.Tensor | None,
) -> list[Instances]:
    """Return the masks of each row of a batch; see ``UllavaProcessor.post_process_instance_segmentation``."""
    seg = getattr(outputs, "seg", None)
    if seg is None:
        raise UserError("these outputs hold no masks: they are those of model.generate_grounded(...), or of a forward "
                        "pass over answers with [SEG] whose inputs hold the mask head's images")  # fmt: skip
    if not 0 < mask_threshold < 1:
        raise UserError(f"mask_threshold: expected a number between 0 and 1, not {mask_threshold}")
    rows = _rows(outputs)
    sizes = None if target_sizes is None else [(int(size[0]), int(size[1])) for size in target_sizes]
    if sizes is not None and len(sizes) != rows:
        raise UserError(f"target_sizes: {len(sizes)} sizes (height, width) for {rows} rows")
    logits, scores = seg.judged()
    found = []
    for row in range(rows):
        of_row, size = seg.row == row, None if sizes is None else sizes[row]
        found.append(_row(rules, logits[of_row], scores[of_row], threshold, mask_threshold, size))
    return found


def _rows(outputs: Any) -> int:
    """Return how many rows of text outputs are of."""
    for name in ("new_ids", "input_ids", "logits"):
        if getattr(outputs, name, None) is not None:
            return len(getattr(outputs, name))
    raise UserError("these outputs do not tell how many rows they are of")


def _row(
    rules: MaskRules,
    logits: torch.Tensor,
    scores: torch.Tensor,
    threshold: float,
    mask_threshold: float,
    size_hw: tuple[int, int] | None,
) -> Instances:
    planes = logits if size_hw is None else rules.to_original(logits, size_hw)
    judged = [rules.score(plane, score) for plane, score in zip(planes, scores.tolist(), strict=True)]
    scores = torch.tensor(judged, dtype=torch.float32, device=planes.device)
    masks = planes > math.log(mask_threshold / (1 - mask_threshold))
    kept = (scores > threshold) & masks.flatten(1).any(dim=1)
    return {"scores": scores[kept], "boxes": _boxes(masks[kept]), "masks": masks[kept].long()}


def _boxes(masks: torch.Tensor) -> torch.Tensor:
    """Return the tight half-open boxes xyxy [k, 4] of masks bool [k, H, W], none of which is empty."""
    corners = []
    for axis in (1, 2):  # where a column holds a pixel, then a row
        there = masks.any(dim=axis)
        first = there.int().argmax(dim=1) if there.numel() else there.new_zeros(0, dtype=torch.long)
        last = there.shape[1] - there.flip(1).int().argmax(dim=1) if there.numel() else first
        corners.append((first, last))
    (left, right), (top, bottom) = corners
    return torch.stack([left, top, right, bottom], dim=1).float()
