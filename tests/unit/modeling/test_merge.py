from __future__ import annotations

import pytest
import torch
from tests.unit.modeling.conftest import build_small, grounded_sample, make_image

from ullava.batching.collate import Collator
from ullava.errors import UserError
from ullava.modeling.vision.clip_mlp import merge_patches


def test_neighbors_are_joined_rows_first() -> None:
    grid = torch.arange(16.0).view(1, 16, 1)
    assert merge_patches(grid, 2).tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]
    assert merge_patches(grid, 1) is grid


def test_a_merging_model_counts_what_it_gives() -> None:
    model, processor = build_small(("vision.spatial_merge_size=2",))
    example = processor.encode(grounded_sample("a"), [make_image(0)])
    assert (example.input_ids == processor.token_ids["image_patch_id"]).sum() == 4
    batch = Collator(processor.tokenizer.pad_token_id)([example])
    output = model(**batch.inputs.as_kwargs())
    assert output.seg.mask_logits_lowres.shape[0] == 1


def test_a_grid_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="vision.spatial_merge_size 3: the tower's grid of 4 x 4"):
        build_small(("vision.spatial_merge_size=3",))
