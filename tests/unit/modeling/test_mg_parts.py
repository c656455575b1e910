"""MG-LLaVA's parts: the start of the fusion, what an object token is the mean of, which boxes become one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import ConvNextConfig

from ullava.errors import UserError
from ullava.geometry import plan_view
from ullava.modeling.vision.box_pooling import interval_weights
from ullava.modeling.vision.mg_boxes import boxes_on_view, released_boxes, suppress
from ullava.modeling.vision.mg_fusion import FUSIONS, ConvGateFusion
from ullava.modeling.vision.mg_pooling import ObjectTokens, pool_map
from ullava.modeling.vision.mg_pyramid import ConvNextPyramid


def test_a_gate_that_starts_at_zero_would_stay_there():
    """Why the gate's last layer keeps its random start: with it at zero no gradient reaches the second branch."""
    torch.manual_seed(0)
    low, high = torch.randn(2, 16, 6), torch.randn(2, 10, 4, 4)
    for zero_gate, moves in ((False, True), (True, False)):
        fusion = ConvGateFusion("gate", 6, 10)
        if zero_gate:
            torch.nn.init.zeros_(fusion.gate[2].weight)
            torch.nn.init.zeros_(fusion.gate[2].bias)
        fused, gate = fusion(low, high)
        assert torch.equal(fused, low)
        fused.square().sum().backward()
        assert bool(fusion.slow_proj.weight.grad.any()) is moves
        assert not fusion.gate[2].weight.grad.any()
        assert bool(gate.any()) is moves


def test_released_fusion_has_six_million_weights():
    with torch.device("meta"):
        fusion = ConvGateFusion("gate", 1024, 1536)
    assert sum(parameter.numel() for parameter in fusion.parameters()) == pytest.approx(6.09e6, rel=1e-3)


@pytest.mark.parametrize(("kind", "width"), list(zip(FUSIONS, (1024, 2048, 2048, 2560), strict=True)))
def test_width_for_the_projector(kind, width):
    with torch.device("meta"):
        assert ConvGateFusion(kind, 1024, 1536).width_out == width


def test_grids_must_meet():
    with pytest.raises(UserError, match="25 low-resolution patches.*4 x 4"):
        ConvGateFusion("gate", 6, 10)(torch.zeros(1, 25, 6), torch.zeros(1, 10, 4, 4))
    with pytest.raises(UserError, match="unknown fusion 'gates'; known"):
        ConvGateFusion("gates", 6, 10)


def test_pyramid_is_every_map_of_a_convnext():
    torch.manual_seed(3)
    pyramid = ConvNextPyramid(ConvNextConfig(hidden_sizes=[4, 6, 8, 10], depths=[1, 1, 1, 1])).eval()
    pixels = torch.randn(2, 3, 64, 64)
    maps = pyramid(pixels)
    assert [tuple(level.shape) for level in maps] == [(2, 4, 16, 16), (2, 6, 8, 8), (2, 8, 4, 4), (2, 10, 2, 2)]
    assert (pyramid.channels, pyramid.stride) == ((4, 6, 8, 10), 32)
    assert torch.equal(maps[-1], pyramid.model(pixels).last_hidden_state) and maps[0].requires_grad
    pyramid.requires_grad_(False)
    assert not pyramid(pixels)[-1].requires_grad
    with torch.device("meta"):
        released = ConvNextPyramid(ConvNextConfig(hidden_sizes=[192, 384, 768, 1536], depths=[3, 3, 27, 3]))
    assert sum(parameter.numel() for parameter in released.parameters()) == pytest.approx(196e6, rel=5e-3)


def test_object_tokens_of_the_released_size():
    with torch.device("meta"):
        objects = ObjectTokens("pyramid", (192, 384, 768, 1536), 4096, embed_boxes=False)
    assert objects.width_in == 2880
    assert sum(parameter.numel() for parameter in objects.parameters()) == pytest.approx(28.58e6, rel=1e-3)


def test_mean_over_a_box_of_whole_cells():
    """A map that grows evenly has, over any box inside, the value at the box's middle."""
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    plane = torch.stack([rows, columns, torch.ones(8, 8)])
    boxes = torch.tensor([[16.0, 32.0, 48.0, 40.0], [8.0, 8.0, 56.0, 48.0]])
    found = pool_map(plane, boxes, 64, bins=7)
    assert torch.allclose(found, torch.tensor([[4.5, 4.0, 1.0], [3.5, 4.0, 1.0]]), atol=1e-5)


def test_points_beyond_the_last_cell_count_as_zero():
    """A box of no width at the right border is widened to one cell, whose second half lies beyond the map."""
    weights = interval_weights(torch.tensor([7.5, 0.0]), torch.tensor([7.5, 0.0]), 8, 56)
    assert weights[0, :7].sum() == 0 and weights[0, 7] == pytest.approx(0.5, abs=1e-6)
    assert weights[1].sum() == pytest.approx(1.0, abs=1e-6)


def test_weights_of_many_points_are_those_of_a_plain_loop():
    low, high, side, bins = 1.3, 77.9, 96, 56
    found = interval_weights(torch.tensor([low]), torch.tensor([high]), side, bins)[0]
    wanted = np.zeros(side)
    per_bin = int(np.ceil((high - low) / bins))
    for point in range(bins * per_bin):
        place = low + (point + 0.5) * (high - low) / (bins * per_bin)
        wanted[int(place)] += 1 - place % 1
        wanted[int(place) + 1] += place % 1
    assert np.abs(found.numpy() - wanted / (bins * per_bin)).max() < 1e-6


def read_at(plane, x, y):
    """Bilinear value of a map [C, h, w] at a point, as RoIAlign's kernels read it."""
    height, width = plane.shape[-2:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros(len(plane))
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    left, top = int(x), int(y)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    upper = plane[:, top, left] * (1 - x + left) + plane[:, top, right] * (x - left)
    lower = plane[:, bottom, left] * (1 - x + left) + plane[:, bottom, right] * (x - left)
    return upper * (1 - y + top) + lower * (y - top)


def test_pooling_map_by_map_is_the_dense_way():
    """Up-sample, join and read point by point, as published, on a pyramid small enough for it."""
    torch.manual_seed(1)
    maps = [torch.randn(width, side, side) for width, side in ((2, 16), (3, 8), (4, 4))]
    boxes = torch.tensor([[3.0, 10.0, 40.0, 61.0], [60.0, 0.0, 64.0, 2.5], [0.0, 0.0, 64.0, 64.0]])
    dense = torch.cat([functional.interpolate(plane[None], 16, mode="bilinear")[0] for plane in maps])
    wanted = []
    for box in (boxes / 4).tolist():
        width, height = max(box[2] - box[0], 1.0), max(box[3] - box[1], 1.0)
        xs = [box[0] + (point + 0.5) * width / 56 for point in range(56)]
        ys = [box[1] + (point + 0.5) * height / 56 for point in range(56)]
        wanted.append(torch.stack([read_at(dense, x, y) for x in xs for y in ys]).mean(dim=0))
    found = ObjectTokens("pyramid", (2, 3, 4), 8, embed_boxes=False).pool(maps, boxes, 64)
    assert torch.allclose(found, torch.stack(wanted), atol=1e-5)


def test_no_box_no_token_and_each_image_its_own():
    torch.manual_seed(2)
    objects = ObjectTokens("pyramid", (4, 8), 6, embed_boxes=True)
    maps = [torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4)]
    box = torch.tensor([[4.0, 4.0, 20.0, 30.0]])
    nothing, one = objects(maps, [torch.zeros(0, 4), box], 32)
    assert nothing.shape == (0, 6)
    alone = objects([level[1:] for level in maps], [box], 32)[0]
    assert torch.allclose(one, alone, atol=1e-6)
    moved = objects([torch.ones_like(level) for level in maps], [box, box + 2], 32)
    assert not torch.allclose(moved[0], moved[1]), "the embedding tells where a box lies"


def test_boxes_on_the_view_and_the_hard_cap():
    view = plan_view("pad_center", (200, 100), 768)
    boxes, dropped = boxes_on_view([[0, 0, 200, 100]], [0.9], ["all"], view, 100)
    assert boxes.tolist() == [[0, 192, 768, 576]] and dropped == 0
    many = [[x, y, x + 9, y + 9] for y in range(0, 100, 10) for x in range(0, 130, 10)]
    scores = list(np.linspace(0.1, 0.9, 130))
    boxes, dropped = boxes_on_view(many, scores, ["thing"] * 130, view, 100)
    assert (len(boxes), dropped) == (100, 30)
    assert np.allclose(boxes[0], view.to_view([many[-1]])[0]), "the best come first"
    outside, dropped = boxes_on_view([[300, 0, 320, 20], [-10, -10, 5, 5]], [0.9, 0.5], ["a", "b"], view, 100)
    assert dropped == 1 and np.allclose(view.to_orig(outside), [[0, 0, 5, 5]])
    assert boxes_on_view([], [], [], view, 100)[0].shape == (0, 4)


def test_suppression_is_within_a_class():
    boxes = [[0, 0, 10, 10], [1, 1, 11, 11], [1, 1, 11, 11], [50, 50, 60, 60]]
    assert suppress(boxes, [0.5, 0.9, 0.7, 0.1], ["a", "a", "b", "a"]).tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="4 boxes, 1 scores, 4 labels"):
        suppress(boxes, [0.5], ["a"] * 4)


def test_released_filler_box():
    boxes, labels = released_boxes([], [], [], (300, 200), 768)
    assert boxes.tolist() == [[0, 0, 0, 0]] and labels == []
