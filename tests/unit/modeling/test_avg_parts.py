"""AVG-LLaVA's parts: levels, token counts of the specification, what the router may and may not look at."""

from __future__ import annotations

import pytest
import torch
from tests.released_words import released_words
from torch.nn import functional

from ullava.errors import UserError
from ullava.losses import ranking_loss
from ullava.modeling.vision.avg_layout import (
    kernel_of,
    lay_out,
    levels_of,
    plan_canvas,
    plan_layout,
    scale_tokens,
)
from ullava.modeling.vision.avg_router import ChosenWords, GranularityRouter, choose_words

TOKENS = {
    (336, 336): ((1176, 444, 300, 114, 78), (1176, 600, 300, 156, 78)),
    (672, 672): ((2928, 888, 744, 228, 192), (2928, 1488, 744, 384, 192)),
    (1024, 1024): ((2928, 888, 744, 228, 192), (2928, 1488, 744, 384, 192)),
    (640, 480): ((2340, 738, 594, 202, 166), (2340, 1188, 594, 306, 166)),
    (480, 640): ((2352, 1088, 600, 280, 168), (2352, 1200, 600, 336, 168)),
    (1280, 720): ((1948, 638, 494, 150, 114), (1948, 988, 494, 254, 114)),
    (2000, 400): ((1598, 584, 440, 148, 112), (1598, 806, 440, 224, 112)),
    (400, 2000): ((1656, 1068, 468, 282, 126), (1656, 936, 468, 252, 126)),
}
"""Size -> tokens at 576, 288, 144, 72 and 36: as released, and with the padding found in pixels."""


@pytest.mark.parametrize("orig_wh", TOKENS)
def test_token_table(orig_wh):
    plan = plan_canvas(orig_wh, 336)
    for way, wanted in zip(("cells", "pixels"), TOKENS[orig_wh], strict=True):
        assert tuple(plan_layout(plan, 24, level, way).num_tokens for level in (576, 288, 144, 72, 36)) == wanted


@pytest.mark.parametrize("orig_wh", [(3000, 30), (30, 3000), (278, 43)])
def test_something_of_a_long_image_stays(orig_wh):
    plan = plan_canvas(orig_wh, 336)
    for level in levels_of(24):
        layout = plan_layout(plan, 24, level)
        assert layout.num_newlines > 0 and layout.columns[1] > layout.columns[0]


def test_levels():
    assert levels_of(24) == (36, 72, 144, 288, 576)
    assert [kernel_of(24, level) for level in levels_of(24)] == [(4, 4), (2, 4), (2, 2), (1, 2), (1, 1)]
    with pytest.raises(UserError, match="no granularity of 100 tokens.*576"):
        kernel_of(24, 100)
    with pytest.raises(UserError, match="6 x 6 patches cannot be averaged"):
        levels_of(6)


def test_one_pooling_is_the_chain_of_poolings():
    rows = torch.arange(24.0)
    states = (rows[:, None] * 3 + rows[None] ** 1.5).reshape(1, 576, 1)
    plane = states.reshape(1, 1, 24, 24)
    for level, kernel in ((288, (1, 2)), (144, (2, 1)), (72, (1, 2)), (36, (2, 1))):
        plane = functional.avg_pool2d(plane, kernel)
        assert torch.allclose(scale_tokens(states, level).flatten(), plane.flatten(), rtol=1e-5)


def test_layout_keeps_the_tokens_of_the_image_in_their_places():
    """Every token carries its row and column of the canvas; what is laid out is the kept part, a newline each row."""
    plan = plan_canvas((640, 480), 336)
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    canvas = torch.stack([rows, columns], dim=-1)
    tiles = torch.stack([canvas[y : y + 24, x : x + 24].reshape(576, 2) for y in (0, 24) for x in (0, 24)])
    states = torch.cat([torch.full((1, 576, 2), -5.0), tiles])
    layout = plan_layout(plan, 24, 576)
    tokens = lay_out(states, layout, torch.tensor([-1.0, -1.0]))
    assert len(tokens) == layout.num_tokens == 2340
    kept = tokens[576:].reshape(36, 49, 2)
    assert torch.equal(kept[:, :48], canvas[6:42]) and bool((kept[:, 48] == -1).all())


def router(axis="tokens", width=16, **options):
    torch.manual_seed(3)
    return GranularityRouter(width, (1, 2, 4, 8, 16), text_slots=5, axis=axis, **options).eval()


def test_released_router_has_117_million_weights():
    with torch.device("meta"):
        made = GranularityRouter(4096, levels_of(24))
    assert sum(parameter.numel() for parameter in made.parameters()) == pytest.approx(117.5e6, rel=1e-3)
    assert made.voter.shape == (1148, 1)


def test_what_is_not_asked_cannot_move_the_scores():
    """Answers and padding are not among the words; too few words leave slots empty, whose content does not matter."""
    torch.manual_seed(4)
    made, crops, words = router(), torch.randn(3, 16, 16), torch.randn(2, 16)
    chosen = choose_words(crops[0], words, 5)
    scores = made(crops, chosen)
    assert chosen.empty.tolist() == [False, False, True, True, True]
    filled = chosen.rows.clone()
    filled[2:] = torch.randn(3, 16)
    assert torch.allclose(made(crops, ChosenWords(filled, chosen.empty)), scores, atol=1e-5)
    more = choose_words(crops[0], torch.cat([words, torch.randn(2, 16)]), 5)
    assert not torch.allclose(made(crops, more), scores, atol=1e-3)
    assert torch.isfinite(made(crops, choose_words(crops[0], words[:0], 5))).all()


def test_too_few_words_in_the_released_way():
    """Ours leaves slots empty, theirs takes masked words."""
    torch.manual_seed(5)
    base, words = torch.randn(4, 8), torch.randn(6, 8)
    mask = torch.tensor([True, True, False, False, False, False])
    ours, theirs = choose_words(base, words[mask], 4), released_words(base, words, mask, 4)
    assert torch.equal(ours.rows[:2], theirs.rows[:2])
    assert not ours.rows[2:].any() and theirs.rows[2:].any()


@pytest.mark.parametrize("axis", ["tokens", "crops"])
def test_order_of_crops_and_of_tokens(axis):
    torch.manual_seed(6)
    made, crops = router(axis), torch.randn(4, 16, 16)
    chosen = choose_words(crops[0], torch.randn(7, 16), 5)
    scores = made(crops, chosen)
    assert torch.allclose(made(crops[[0, 3, 1, 2]], chosen), scores, atol=1e-5)
    assert not torch.allclose(made(crops[:, torch.randperm(16)], chosen), scores, atol=1e-3)


@pytest.mark.parametrize("axis", ["tokens", "crops"])
def test_who_looks_at_whom(axis):
    """A word that changes is seen by its like in every crop in the released way, by the whole of each crop in ours."""
    torch.manual_seed(7)
    made, crops = router(axis), torch.randn(3, 16, 16)
    chosen = choose_words(crops[0], torch.randn(7, 16), 5)
    changed = crops.clone()
    changed[1, 5] += 1.0
    # token 5 of crop 1 at the finest level and, averaged, one place of every coarser level
    finest = 1 + 2 + 4 + 8 + 5
    moved = (made.states(changed, chosen) - made.states(crops, chosen)).abs().amax(dim=-1) > 1e-6
    if axis == "crops":
        assert moved[:, finest].all() and int(moved[0].sum()) == len(made.levels)
        assert torch.equal(moved[0], moved[1]) and torch.equal(moved[0], moved[2])
    else:
        assert moved[1].all() and not moved[0].any() and not moved[2].any()


def test_one_crop_in_the_released_way_looks_only_at_itself():
    made = router("crops")
    crops = torch.randn(1, 16, 16)
    chosen = choose_words(crops[0], torch.randn(7, 16), 5)
    places = torch.cat([*(scale_tokens(crops, level) for level in made.levels), chosen.rows[None]], dim=1)
    _, weights = made.merger.self_attn(places, places, places)
    assert bool((weights == 1).all())


COSTS = torch.tensor([[0.90, 0.80, 0.50, 0.55, 0.60]])


@pytest.mark.parametrize(
    ("scores", "ce", "rank", "total"),
    [
        ([0.0, 0, 0, 0, 0], 1.6094, 3.1083, 3.2693),
        ([0.0, 1, 4, 3, 2], 0.4519, 0.0, 0.0452),
        ([4.0, 3, 0, 1, 2], 4.4519, 13.1083, 13.5536),
    ],
)
def test_ranking_loss_by_hand(scores, ce, rank, total):
    found = ranking_loss(torch.tensor([scores]), COSTS)
    assert [float(term) for term in found] == pytest.approx([ce, rank, total], abs=1e-4)
    order = [3, 1, 4, 0, 2]
    again = ranking_loss(torch.tensor([scores])[:, order], COSTS[:, order])
    assert again.total == pytest.approx(float(found.total), abs=1e-5)


def test_ranking_loss_as_the_paper_writes_it():
    assert float(ranking_loss(torch.zeros(1, 5), COSTS, widen=False).rank) == pytest.approx(1.0417, abs=1e-4)


def test_ranking_loss_of_ties_and_of_rows_without_an_answer():
    logits = torch.randn(2, 5, requires_grad=True)
    assert torch.isfinite(ranking_loss(logits, torch.full((2, 5), 0.7)).total)
    nan = torch.full((1, 5), float("nan"))
    alone = ranking_loss(logits[:1], COSTS)
    assert torch.equal(ranking_loss(logits, torch.cat([COSTS, nan])).total, alone.total)
    nothing = ranking_loss(logits, nan.expand(2, 5)).total
    nothing.backward()
    assert nothing == 0 and not logits.grad.any()
