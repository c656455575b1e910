"""The node for ComfyUI, called as ComfyUI calls it: by its tables, with tensors [B, H, W, C]."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.unit.inference.test_ecosystem import drawn

import ullava
from ullava.errors import UserError
from ullava.plugins.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, pixels_of


def test_the_node_gives_the_masks_of_the_model() -> None:
    node = NODE_CLASS_MAPPINGS["UllavaSegment"]
    assert set(NODE_DISPLAY_NAME_MAPPINGS) == set(NODE_CLASS_MAPPINGS)
    inputs = node.INPUT_TYPES()
    assert list(inputs["required"]) == ["image", "text", "model"]
    pair = [np.asarray(drawn()), np.asarray(drawn("blue"))]
    image = torch.from_numpy(np.stack(pair)).float() / 255
    mask, text = getattr(node(), node.FUNCTION)(image=image, text="circle", model="tiny", device="cpu")
    assert mask.shape == (2, 80, 96) and mask.dtype == torch.float32 and text.count("\n") == 1
    predictor = ullava.load("tiny", device="cpu")
    for one, found in zip(pair, mask, strict=True):
        (thing,) = predictor.answer(one, "Segment the circle.").objects
        np.testing.assert_array_equal(found.numpy() == 1, thing.mask)
    nothing, _ = node().segment(image[:1], "circle", "tiny", threshold=1.0, device="cpu")
    assert not nothing.any()
    with pytest.raises(UserError, match="nothing to look for"):
        node().segment(image, " ", device="cpu")


def test_images_of_other_shapes_and_ranges() -> None:
    gray = torch.full((1, 2, 3, 1), 0.5)
    assert pixels_of(gray)[0].tolist() == [[[128] * 3] * 3] * 2
    assert pixels_of(torch.ones(1, 2, 3, 4))[0].shape == (2, 3, 3)
    for wrong in (torch.ones(2, 3, 3), torch.ones(1, 2, 3, 2), torch.ones(1, 0, 3, 3)):
        with pytest.raises(UserError, match="expected float"):
            pixels_of(wrong)
    for wrong in (torch.full((1, 2, 2, 3), 2.0), torch.full((1, 2, 2, 3), torch.nan)):
        with pytest.raises(UserError, match="from 0 to 1"):
            pixels_of(wrong)
