"""Frames and overlaps against numbers that the original u-LLaVA gave (skipped where ../shared is not there)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ullava import geometry


@pytest.fixture(scope="module")
def parity(shared_dir: Path) -> Path:
    return shared_dir / "parity" / "ullava"


def test_padded_square(parity):
    for entry in json.loads((parity / "preprocess" / "case.json").read_text())["boxes"]:
        size = entry["width"], entry["height"]
        boxes = geometry.xywh_to_xyxy(entry["xywh"])
        np.testing.assert_allclose(boxes, entry["xyxy"], rtol=1e-12)
        np.testing.assert_allclose(geometry.px_to_padsq(boxes, size), entry["normalised"], atol=1e-12)
        np.testing.assert_allclose(geometry.padsq_to_px(entry["normalised"], size), entry["back_to_pixels"], atol=1e-9)


def test_sam_size(parity):
    for image in json.loads((parity / "preprocess" / "case.json").read_text())["images"]:
        for side, expected in image["sam"].items():
            view = geometry.plan_view("pad_br", (image["width"], image["height"]), int(side))
            assert list(geometry.resized_hw(view)) == expected["resized_hw"]


def test_box_of_a_mask(parity):
    masks = load_file(parity / "preprocess" / "expected" / "masks.safetensors")
    for entry in json.loads((parity / "preprocess" / "case.json").read_text())["mask_to_box"]:
        box = geometry.mask_to_box_xyxy_px(masks[entry["mask"]].astype(np.bool_))
        assert (box if box is None else list(box)) == entry["xyxy_half_open"], entry["mask"]


def test_box_iou(parity):
    expected = json.loads((parity / "metrics" / "case.json").read_text())["boxes"]
    tensors = load_file(parity / "metrics" / "tensors.safetensors")
    # The original scales to thousandths in float32 first, which shows in the one tiny pair.
    iou = geometry.box_iou(tensors["boxes.pred"] * 1000, tensors["boxes.gt"] * 1000).diagonal()
    np.testing.assert_allclose(iou, expected["iou"], atol=1e-5)
    assert (iou > 0.5).astype(int).tolist() == expected["correct"]
