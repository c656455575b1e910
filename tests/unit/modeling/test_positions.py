from __future__ import annotations

import pytest
import torch
from tests.unit.modeling.conftest import build_small
from tests.unit.modeling.small_segmenters import build_segmenter

from ullava.modeling.positions import SAM_SCALE, sincos_grid


def test_every_cell_has_a_code_of_its_own_and_neighbors_are_alike() -> None:
    table = sincos_grid(8, 32)
    assert table.shape == (64, 32)
    distance = torch.cdist(table, table)
    others = distance + torch.eye(64) * 9
    assert others.min() > 0.3, "no two cells share a code"
    nearest = others.argmin(dim=1)
    steps = torch.stack([nearest // 8 - torch.arange(64) // 8, nearest % 8 - torch.arange(64) % 8]).abs()
    assert int(steps.sum(dim=0).max()) == 1, "the most similar code is a neighbour's"


def test_x_comes_first() -> None:
    table = sincos_grid(4, 8).view(4, 4, 8)
    assert torch.equal(table[0, 2, :4], table[3, 2, :4]) and torch.equal(table[1, 0, 4:], table[1, 3, 4:])


def test_odd_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 4"):
        sincos_grid(4, 10)


def test_towers_built_afresh_start_with_it() -> None:
    model, _ = build_small()
    table = model.vision.tower.embeddings.position_embedding.weight
    torch.testing.assert_close(table[1:], sincos_grid(4, 32))
    assert model.mask_head.sam.vision_encoder.pos_embed.abs().sum() > 0


def test_hiera_built_afresh_starts_with_it_too() -> None:
    model, _ = build_segmenter("sam2_video")
    table = model.mask_head.encoder.backbone.pos_embed
    torch.testing.assert_close(table[0].flatten(1).T, SAM_SCALE * sincos_grid(4, 8))
