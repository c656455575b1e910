"""The box of a mask as u-LLaVA's first release counts it."""

from __future__ import annotations

from ullava.geometry.masks import mask_to_box_xyxy_px
from ullava.structures import BoxXYXY, MaskArray


def released_box_of_mask(mask: MaskArray) -> BoxXYXY:
    """Return the box of a mask [H, W] as u-LLaVA counts it: the far side one less, (0, 0, -1, -1) for an empty mask.

    For comparing with its numbers only.
    """
    x0, y0, x1, y1 = mask_to_box_xyxy_px(mask) or (0.0, 0.0, 0.0, 0.0)
    return x0, y0, x1 - 1.0, y1 - 1.0
