"""What the tower and SAM are shown, box frames, and boxes of masks, against tensors of the original."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import folders, read
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from ullava import geometry
from ullava.geometry import plan_view, resized_hw
from ullava.geometry.boxes_ullava_v1 import released_box_of_mask
from ullava.media.images import read_image_rgb_u8
from ullava.media.images_ullava_v1 import read_opaque_rgb_u8
from ullava.modeling.heads.box import from_head_frame, to_head_frame
from ullava.modeling.pixels import (
    CLIP_MEAN,
    CLIP_STD,
    SAM_MEAN,
    SAM_STD,
    normalize_u8,
    resize_planes_u8,
)
from ullava.modeling.vision.clip_mlp import ClipMlpPreprocessor

CASE = pytest.mark.parametrize("folder", folders("preprocess"))
ASPECT = {"pad": "pad", "nopad": "crop"}


def stride(case: dict[str, Any], key: str) -> int:
    """The step of a strided sample, e.g. 9 for ``[:, ::9, ::9]``."""
    found = re.search(r"::(\d+)", case["strides"][key])
    assert found is not None
    return int(found[1])


def images(folder: Path) -> list[tuple[int, dict[str, Any], NDArray[np.uint8]]]:
    images = read(folder)["images"]
    return [(n, facts, read_opaque_rgb_u8(folder / facts["file"])) for n, facts in enumerate(images)]


def clip_tensor(image: NDArray[np.uint8], side: int, image_aspect_ratio: str) -> NDArray[np.float32]:
    views = ClipMlpPreprocessor(side, 1, ASPECT[image_aspect_ratio]).preprocess(image).views
    return normalize_u8(torch.from_numpy(views["base"])[None], CLIP_MEAN, CLIP_STD, torch.float32)[0].numpy()


def sam_planes(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = resized_hw(plan_view("pad_br", (image.shape[1], image.shape[0]), side))
    return resize_planes_u8(image, height, width, "bilinear")


def sam_tensor(image: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    planes = sam_planes(image, side)
    pixels = normalize_u8(torch.from_numpy(planes)[None], SAM_MEAN, SAM_STD, torch.float32)[0].numpy()
    square = np.zeros((3, side, side), np.float32)
    square[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return square


@CASE
def test_images_are_decoded_alike(folder: Path) -> None:
    for _, facts, image in images(folder):
        assert image.shape == (facts["height"], facts["width"], 3)
        assert hashlib.sha256(image.tobytes()).hexdigest() == facts["rgb_sha256"], facts["file"]


@CASE
def test_by_default_what_is_transparent_is_white(folder: Path) -> None:
    for _, facts, image in images(folder):
        shown = read_image_rgb_u8(folder / facts["file"])
        if "A" not in facts["png_mode"]:
            assert np.array_equal(shown, image), facts["file"]
            continue
        alpha = np.asarray(Image.open(folder / facts["file"]).getchannel("A"))
        assert np.array_equal(shown[alpha == 255], image[alpha == 255])
        assert (shown[alpha == 0] == 255).all()
        assert (alpha < 255).any() == (not np.array_equal(shown, image))


@CASE
@pytest.mark.parametrize("image_aspect_ratio", sorted(ASPECT))
def test_what_the_tower_sees(folder: Path, image_aspect_ratio: str) -> None:
    case = read(folder)
    limits = case["tolerances"]
    full = load_file(folder / "expected" / "full.safetensors")
    sampled = load_file(folder / "expected" / "sampled.safetensors")
    small, large = case["clip_small_size"], case["clip_large_size"]
    step = stride(case, f"clip_{large}")
    for number, facts, image in images(folder):
        found = clip_tensor(image, small, image_aspect_ratio)
        difference = np.abs(found - full[f"clip_{small}_{image_aspect_ratio}_{number}"])
        assert difference.max() <= limits["clip_atol_other_resampler"], facts["file"]
        assert difference.mean() <= limits["clip_mean_abs_other_resampler"], facts["file"]
        found = clip_tensor(image, large, image_aspect_ratio)
        difference = np.abs(found[:, ::step, ::step] - sampled[f"clip_{large}_{image_aspect_ratio}_{number}"])
        assert difference.max() <= limits["clip_atol_other_resampler"], facts["file"]
        expected = facts["clip"][f"{large}_{image_aspect_ratio}"]
        assert list(found.shape) == expected["shape"]
        assert np.abs(found).sum() == pytest.approx(expected["abs_sum"], rel=2e-3)


@CASE
def test_what_sam_sees(folder: Path) -> None:
    case = read(folder)
    limits = case["tolerances"]
    full = load_file(folder / "expected" / "full.safetensors")
    sampled = load_file(folder / "expected" / "sampled.safetensors")
    small = case["sam_small_size"]
    for number, facts, image in images(folder):
        for side, expected in facts["sam"].items():
            planes = sam_planes(image, int(side))
            assert list(planes.shape[1:]) == expected["resized_hw"]
            pixels = planes.transpose(1, 2, 0).astype(int)
            if int(side) == small:
                golden = full[f"sam_{side}_uint8_{number}"]
            else:
                step = stride(case, f"sam_{side}_uint8")
                pixels, golden = pixels[::step, ::step], sampled[f"sam_{side}_uint8_{number}"]
            assert np.abs(pixels - golden).max() <= limits["sam_uint8_max_diff_other_resampler"], facts["file"]
            step = stride(case, f"sam_{side}_tensor")
            tensor = sam_tensor(image, int(side))
            assert list(tensor.shape) == expected["tensor_shape"]
            difference = np.abs(tensor[:, ::step, ::step] - sampled[f"sam_{side}_tensor_{number}"])
            assert difference.max() <= limits["sam_tensor_atol_other_resampler"], facts["file"]


@CASE
def test_box_frames(folder: Path) -> None:
    atol = read(folder)["tolerances"]["boxes_atol"]
    for entry in read(folder)["boxes"]:
        size = entry["width"], entry["height"]
        boxes = geometry.xywh_to_xyxy(entry["xywh"])
        np.testing.assert_allclose(boxes, entry["xyxy"], atol=atol)
        np.testing.assert_allclose(to_head_frame(boxes, size, "padsq"), entry["normalised"], atol=atol)
        back = geometry.padsq_to_px(entry["normalised"], size)
        np.testing.assert_allclose(back, entry["back_to_pixels"], atol=1e-6)
        cut = from_head_frame(np.asarray(entry["normalised"]), size, "padsq")
        assert (cut >= 0).all() and (cut <= np.tile(size, 2)).all(), "ours stays inside the picture"


@CASE
def test_boxes_of_masks(folder: Path) -> None:
    """Half-open by default; the original's far side is one less, and an empty mask has an inverted box there."""
    masks = load_file(folder / "expected" / "masks.safetensors")
    atol = read(folder)["tolerances"]["boxes_atol"]
    for entry in read(folder)["mask_to_box"]:
        mask = masks[entry["mask"]].astype(np.bool_)
        box = geometry.mask_to_box_xyxy_px(mask)
        assert (box if box is None else list(box)) == entry["xyxy_half_open"], entry["mask"]
        original = released_box_of_mask(mask)
        np.testing.assert_allclose(original, entry["xyxy_original"], atol=atol)
        size = entry["width"], entry["height"]
        np.testing.assert_allclose(geometry.px_to_padsq(original, size), entry["normalised_original"], atol=atol)
