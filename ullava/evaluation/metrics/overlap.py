"""How far two masks of one image overlap, in pixels."""

from __future__ import annotations

import numpy as np

from ullava.structures import MaskArray


def overlap(predicted: MaskArray | None, truth: MaskArray | None, ignore: MaskArray | None = None) -> tuple[int, int]:
    """Return (intersection, union) in pixels of two masks [H, W]; None is a mask without a pixel.

    Pixels of ``ignore`` count nowhere. Raises ValueError for masks of different shape.
    """
    shapes = {mask.shape for mask in (predicted, truth, ignore) if mask is not None}
    if len(shapes) > 1:
        raise ValueError(f"masks of one image have different sizes: {sorted(shapes)}")
    first = _counted(predicted, ignore)
    second = _counted(truth, ignore)
    if first is None or second is None:
        present = first if first is not None else second
        return 0, 0 if present is None else int(np.count_nonzero(present))
    return int(np.count_nonzero(first & second)), int(np.count_nonzero(first | second))


def _counted(mask: MaskArray | None, ignore: MaskArray | None) -> MaskArray | None:
    if mask is None or ignore is None:
        return mask
    return np.asarray(mask & ~ignore, dtype=np.bool_)


def iou_of(intersection: int, union: int) -> float:
    """Intersection over union; two empty masks agree: 1."""
    return intersection / union if union else 1.0
