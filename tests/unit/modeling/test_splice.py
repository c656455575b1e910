from __future__ import annotations

import pytest
import torch

from ullava.errors import UserError
from ullava.modeling.splice import ExpandedText, expand_markers, scatter_visual_tokens

MARK, PAD = 9, 0


def text(rows: list[list[int]], left: bool = False) -> ExpandedText:
    length = max(map(len, rows))
    pads = [[PAD] * (length - len(row)) for row in rows]
    ids = torch.tensor([pad + row if left else row + pad for row, pad in zip(rows, pads, strict=True)])
    labels = torch.where(ids == PAD, -100, ids)
    return ExpandedText(ids, (ids != PAD).long(), labels)


def test_markers_grow_and_labels_stay_on_their_tokens() -> None:
    out = expand_markers(text([[1, MARK, 2, MARK, 3], [4, 5, 6]]), [3, 0], patch_id=MARK, pad_id=PAD, left_pad=False)
    assert out.input_ids.tolist() == [[1, MARK, MARK, MARK, 2, 3], [4, 5, 6, 0, 0, 0]]
    assert out.labels is not None
    assert out.labels.tolist() == [[1, -100, -100, -100, 2, 3], [4, 5, 6, -100, -100, -100]]
    assert out.attention_mask.tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]


def test_left_padding_stays_left() -> None:
    out = expand_markers(text([[1, MARK], [4]], left=True), [2], patch_id=MARK, pad_id=PAD, left_pad=True)
    assert out.input_ids.tolist() == [[1, MARK, MARK], [0, 0, 4]]


def test_text_in_full_is_left_alone() -> None:
    full = text([[1, MARK, MARK, 2]])
    assert expand_markers(full, [2], patch_id=MARK, pad_id=PAD, left_pad=False) is full


def test_wrong_counts_are_refused() -> None:
    with pytest.raises(UserError, match="2 visual placeholders for 1 items with 5"):
        expand_markers(text([[1, MARK, MARK]]), [5], patch_id=MARK, pad_id=PAD, left_pad=False)
    with pytest.raises(UserError, match="2 places for visual tokens, the vision strategy gave 3"):
        scatter_visual_tokens(torch.zeros(1, 3, 4), torch.tensor([[1, MARK, MARK]]), torch.ones(3, 4), MARK)


def test_scatter_puts_tokens_in_reading_order() -> None:
    ids = torch.tensor([[MARK, 1], [1, MARK]])
    tokens = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    out = scatter_visual_tokens(torch.zeros(2, 2, 2), ids, tokens, MARK)
    assert out[..., 0].tolist() == [[1.0, 0.0], [0.0, 2.0]]
