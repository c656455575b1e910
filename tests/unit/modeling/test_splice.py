from __future__ import annotations

import pytest
import torch

from ullava.errors import UserError
from ullava.modeling.cores.splice import ExpandedText, VisualItems, expand_markers, scatter_visual_tokens, splice_visual

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


def test_bounds_tell_open_places_from_written_ones() -> None:
    """Two tokens and none for two single markers are as many as the markers: only the bounds tell them apart."""
    given = text([[1, MARK, 2, MARK, 3], [4, MARK, MARK, 5]])
    bounds = [(0, 9), (0, 9), (2, 2)]
    out = expand_markers(given, [2, 0, 2], patch_id=MARK, pad_id=PAD, left_pad=False, bounds=bounds)
    assert out.input_ids.tolist() == [[1, MARK, MARK, 2, 3], [4, MARK, MARK, 5, PAD]]
    assert out.labels is not None and out.labels.tolist() == [[1, -100, -100, 2, 3], [4, -100, -100, 5, -100]]
    with pytest.raises(UserError, match="3 tokens for an item that may have 2 to 2"):
        expand_markers(given, [2, 0, 3], patch_id=MARK, pad_id=PAD, left_pad=False, bounds=bounds)
    with pytest.raises(UserError, match="4 visual placeholders"):
        expand_markers(given, [2, 0], patch_id=MARK, pad_id=PAD, left_pad=False, bounds=bounds[:2])


def test_words_may_stand_among_visual_tokens() -> None:
    tokens = torch.arange(8.0).view(4, 2)
    items = VisualItems(MARK, tokens, [4], [0], [(1, 9)], torch.tensor([-1, 7, -1, -1]))
    out, embeddings = splice_visual(
        text([[1, MARK, 2]]), lambda ids: -ids[..., None].float().expand(-1, -1, 2), [items], pad_id=PAD, left_pad=False
    )
    assert out.input_ids.tolist() == [[1, MARK, 7, MARK, MARK, 2]]
    assert out.labels is not None and out.labels.tolist() == [[1, -100, -100, -100, -100, 2]]
    assert embeddings[0, :, 0].tolist() == [-1.0, 0.0, -7.0, 4.0, 6.0, -2.0]


def test_left_and_right_padding_agree_on_logits() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=12, **sizes)).eval()
    rows = [[1, MARK, 2, 3], [4, MARK, MARK, 5, 6, 7]]
    tokens = torch.randn(10, 16)
    found = []
    for left in (False, True):
        items = VisualItems(MARK, tokens, [3, 2, 5], [0, 1, 2], [(1, 9)] * 3)
        out, embeddings = splice_visual(
            text(rows, left), model.get_input_embeddings(), [items], pad_id=PAD, left_pad=left
        )
        mask = out.attention_mask
        assert mask is not None and mask.sum(dim=1).tolist() == [6, 11]
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        logits = model(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions).logits
        found.append([logits[row][mask[row].bool()] for row in range(2)])
    for right, left_row in zip(*found, strict=True):
        torch.testing.assert_close(right, left_row, rtol=1e-4, atol=1e-5)
