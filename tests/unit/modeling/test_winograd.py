"""Tiled convolutions are torch's own, up to a few times the error of rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from ullava.modeling.cpu import winograd


@pytest.mark.parametrize("plane_hw", [(64, 64), (13, 6), (1, 3)])
def test_it_agrees_with_the_direct_convolution(plane_hw):
    torch.manual_seed(0)
    plane, weight = torch.randn(*plane_hw, 64), torch.randn(32, 64, 3, 3) / 24
    exact = functional.conv2d(plane.double().permute(2, 0, 1)[None], weight.double(), padding=1)[0].permute(1, 2, 0)
    found = winograd.tiled(plane, winograd.tiled_weight(weight))
    assert found.shape == exact.shape and exact.std() > 0.3
    assert (found - exact).abs().max() < 1e-4


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 1),
        nn.Linear(4, 4),
    ],
)
def test_other_layers_are_left_alone(other):
    assert winograd.can_tile(nn.Conv2d(4, 4, 3, padding=1, bias=False))
    assert not winograd.can_tile(other)


def test_a_bias_is_left_alone():
    assert not winograd.can_tile(nn.Conv2d(4, 4, 3, padding=1))
