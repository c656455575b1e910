"""Strips of a million pixels: every view in memory bounded by the image, ordinary images as they always were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ullava.config.vision import SlimeConfig
from ullava.geometry import ViewKind, plan_square, plan_view, resized_hw, rle_decode, rle_encode
from ullava.inference.overlay import draw_overlay
from ullava.modeling import pixels
from ullava.modeling.heads.box_post_processing import BoxPostProcessor
from ullava.modeling.heads.mask_sam import SamMaskRules
from ullava.modeling.pixels import pad_to_square_u8, render_view, resize_planes_u8
from ullava.modeling.vision.avg_layout import plan_canvas
from ullava.modeling.vision.clip_mlp import ClipMlpPreprocessor
from ullava.modeling.vision.conv import ConvPreprocessor
from ullava.modeling.vision.mg import MgPreprocessor
from ullava.modeling.vision.slime import SlimePreprocessor
from ullava.modeling.vision.tiles import render_tiles
from ullava.structures import GroundedObject

LONG = 1_000_000
PYRAMID = {"pyramid": {"patch_size": 4, "hidden_sizes": [1, 2, 3, 4]}, "max_boxes": 3, "box_rule": "top"}


def preprocessors() -> dict[str, Any]:
    every: dict[str, Any] = {}
    for image_aspect_ratio in ("pad", "stretch", "crop"):
        every[f"clip {image_aspect_ratio}"] = ClipMlpPreprocessor(56, 14, image_aspect_ratio)
    for image_aspect_ratio in ("pad", "stretch", "crop", "any"):
        every[f"conv {image_aspect_ratio}"] = ConvPreprocessor(
            128, 64, image_aspect_ratio, area=2.0, video_side=64, video="frames"
        )
    every["mg"] = MgPreprocessor(56, 14, {**PYRAMID, "frame_pool": 1})
    every["slime"] = SlimePreprocessor(56, 14, SlimeConfig())
    return every


def strip(upright: bool) -> np.ndarray:
    """Gray with one red third in the middle of the long side."""
    image = np.full((10, LONG, 3), 90, np.uint8)
    image[:, LONG // 3 : 2 * LONG // 3] = (200, 0, 0)
    return np.ascontiguousarray(image.transpose(1, 0, 2)) if upright else image


@pytest.mark.parametrize("upright", [False, True])
def test_every_view_of_a_strip_of_a_million_pixels(upright: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    image = strip(upright)
    monkeypatch.setattr(np, "full", refused_when_large(np.full))
    for name, preprocessor in preprocessors().items():
        seen = preprocessor.preprocess(image).views["base"]
        middle = seen[:, seen.shape[1] // 2, seen.shape[2] // 2]
        assert middle[0] > middle[1] + 50, name
    for view in (BoxPostProcessor("norm", (80, 133)).view(image), (sam(image), None)):
        assert view is not None and max(view[0].shape) <= 1024 and view[0][0].max() > 150
    tiles = render_tiles(image, plan_canvas((image.shape[1], image.shape[0]), 56))
    assert tiles.shape[1:] == (3, 56, 56) and tiles[:, 0].max() > 150


def sam(image: np.ndarray) -> np.ndarray:
    height, width = resized_hw(plan_view("pad_br", (image.shape[1], image.shape[0]), 1024))
    return resize_planes_u8(image, height, width, "bilinear")


def refused_when_large(make: Any) -> Any:
    def checked(shape: Any, *rest: Any, **options: Any) -> Any:
        assert np.prod(shape) <= 300_000_000, f"a plane of {shape}"
        return make(shape, *rest, **options)

    return checked


@pytest.mark.parametrize("mode", ["bicubic", "pillow"])
@pytest.mark.parametrize("size_wh", [(90, 31), (31, 90), (300, 7)])
@pytest.mark.parametrize("kind", ["pad_center", "short_side"])
def test_the_way_of_large_images_shows_the_same_within_a_pixel(
    mode: str, size_wh: tuple[int, int], kind: ViewKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = np.mgrid[: size_wh[1], : size_wh[0]]
    image = np.dstack([rows * 200 // size_wh[1], columns * 200 // size_wh[0], np.full_like(rows, 128)]).astype(np.uint8)
    view = plan_square(kind, size_wh, 48)
    usual = render_view(image, view, mode=mode, fill=(1, 2, 3))
    monkeypatch.setattr(pixels, "MAX_PLANE_PIXELS", 1)
    lean = render_view(image, view, mode=mode, fill=(1, 2, 3))
    far = np.abs(usual.astype(int) - lean) > 40
    assert lean.shape == usual.shape and far.any(axis=0).sum() <= 2 * 48  # the two edges between image and padding


def test_ordinary_images_are_padded_first() -> None:
    """What the published preprocessing gives for them, to the last bit."""
    image = np.random.default_rng(0).integers(0, 256, (40, 130, 3), dtype=np.uint8)
    view = plan_view("pad_center", (130, 40), 56)
    ours = render_view(image, view, mode="bicubic", fill=255)
    np.testing.assert_array_equal(ours, resize_planes_u8(pad_to_square_u8(image, 255), 56, 56, "bicubic"))


def test_mirrored_and_locked_arrays_are_resized() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    mirrored = image[::-1, :, ::-1]
    np.testing.assert_array_equal(
        resize_planes_u8(mirrored, 9, 9, "bilinear"), resize_planes_u8(mirrored.copy(), 9, 9, "bilinear")
    )


def test_masks_and_overlays_of_a_strip() -> None:
    image = strip(False)
    logits = torch.full((1, 16, 16), -5.0)
    logits[:, 0, 5:11] = 5.0
    full = SamMaskRules(64).to_original(logits, (10, LONG))
    mask = (full[0] > 0).numpy()
    assert mask.shape == (10, LONG) and 0.2 < mask.mean() < 0.5
    np.testing.assert_array_equal(rle_decode(rle_encode(mask)), mask)
    drawn = draw_overlay(image, [GroundedObject("strip", (0, 5), mask, (0.0, 0.0, LONG / 2, 10.0), 0.5)])
    assert drawn.shape == image.shape and (drawn != image).any()
