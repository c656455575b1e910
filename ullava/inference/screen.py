"""Overlays for people to look at: drawn at the size of a screen, whatever the size of the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from ullava.inference.overlay import draw_overlay
from ullava.media.images import ImageLike, read_preview_rgb_u8
from ullava.structures import GroundedObject, ImageArray, MaskArray

SCREEN_SIDE = 2048
"""The longest side of an overlay in pixels: lines and letters follow the image's size, so more would show no more."""


def screen_overlay(
    image: ImageLike,
    objects: Sequence[GroundedObject],
    side: int = SCREEN_SIDE,
    colors: Sequence[int] | None = None,
) -> ImageArray:
    """Draw ``objects`` on ``image`` as ``draw_overlay`` does, on at most ``side`` pixels of its long side.

    Masks and boxes are those of the whole image, in its pixels; a mask that would vanish keeps the pixels it touches.

    Returns:
        uint8 [h, w, 3]; of a smaller image what ``draw_overlay`` returns.

    Raises:
        DataError: the image cannot be read.
        ValueError: masks of different sizes.
    """
    pixels, whole_hw = read_preview_rgb_u8(image, side)
    if max(pixels.shape[:2]) > side:
        share = side / max(whole_hw)
        size_wh = max(round(whole_hw[1] * share), 1), max(round(whole_hw[0] * share), 1)
        pixels = np.asarray(cv2.resize(pixels, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
    if pixels.shape[:2] == whole_hw:
        return draw_overlay(pixels, objects, colors=colors)
    shown_hw = pixels.shape[0], pixels.shape[1]
    return draw_overlay(pixels, [_resized(item, whole_hw, shown_hw) for item in objects], colors=colors)


def _resized(item: GroundedObject, whole_hw: tuple[int, int], shown_hw: tuple[int, int]) -> GroundedObject:
    down, across = shown_hw[0] / whole_hw[0], shown_hw[1] / whole_hw[1]
    box = item.box_xyxy_px
    return replace(
        item,
        mask=None if item.mask is None else _resized_mask(item.mask, whole_hw, shown_hw),
        box_xyxy_px=None if box is None else (box[0] * across, box[1] * down, box[2] * across, box[3] * down),
    )


def _resized_mask(mask: MaskArray, whole_hw: tuple[int, int], shown_hw: tuple[int, int]) -> MaskArray:
    if mask.shape != whole_hw:
        raise ValueError(f"a mask is {mask.shape}, the image {whole_hw}")
    shares = cv2.resize(mask.view(np.uint8) * 255, shown_hw[::-1], interpolation=cv2.INTER_AREA)
    most = shares > 127
    return most if most.any() else shares > 0
