"""SliME's slicing, mixture and selection against the figures of its specification."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ullava.errors import UserError
from ullava.modeling.vision.slime_mixture import GatedMixture
from ullava.modeling.vision.slime_resampler import Resampler
from ullava.modeling.vision.slime_selection import merge_tiles, select_top_p, word_cosines
from ullava.modeling.vision.slime_tiles import candidate_grids, plan_tiles
from ullava.modeling.vision.tiles import render_tiles, render_whole, whole_view

GRIDS = {
    (336, 336): (1, 2),
    (480, 320): (2, 1),
    (640, 480): (2, 2),
    (672, 672): (2, 2),
    (1024, 1024): (2, 3),
    (1080, 1920): (2, 3),
    (800, 600): (3, 2),
    (1920, 1080): (3, 2),
    (3840, 2160): (3, 2),
    (2000, 400): (5, 1),
}


@pytest.mark.parametrize("size", GRIDS)
def test_published_grids(size: tuple[int, int]) -> None:
    assert plan_tiles(size, 336).grid_cr == GRIDS[size]


def test_seven_tiles_occur_and_never_more() -> None:
    counts = {plan_tiles((width, 400), 336).num_tiles for width in range(40, 6000, 40)}
    assert counts == {2, 3, 4, 5, 6, 7}
    assert plan_tiles((4000, 500), 336).grid_cr == (7, 1)
    assert candidate_grids(2) == [(1, 2), (2, 1), (1, 3), (3, 1)]


def test_fewer_tiles_on_request() -> None:
    assert {plan_tiles((width, 400), 336, 3).num_tiles for width in range(40, 6000, 200)} == {2, 3}
    with pytest.raises(UserError, match="smallest grid"):
        plan_tiles((400, 400), 336, 1)


def test_a_point_of_the_image_is_found_in_its_tile() -> None:
    image = np.zeros((90, 160, 3), np.uint8)
    image[60:70, 100:110] = 255
    plan = plan_tiles((160, 90), 56)
    tiles = render_tiles(image, plan)
    assert tiles.shape == (plan.num_tiles, 3, 56, 56)
    found = 0
    for view, pixels in zip(plan.views(), tiles, strict=True):
        x, y = view.to_view(np.array([105.0, 65.0]))
        inside = 0 <= x < 56 and 0 <= y < 56
        found += int(inside)
        assert np.allclose(view.to_orig(view.to_view(np.array([3.0, 4.0]))), [3.0, 4.0])
        if inside:
            assert pixels[:, int(y), int(x)].min() > 200
    assert found == 1
    x, y = whole_view((160, 90), 56).to_view(np.array([105.0, 65.0]))
    assert render_whole(image, 56)[:, int(y), int(x)].min() > 200


def test_where_the_local_tokens_look() -> None:
    plan = plan_tiles((640, 480), 336)
    assert plan.grid_cr == (2, 2) and plan.offset_xy == (0, 84)
    boxes = plan.cell_boxes_xyxy_px(12)
    assert boxes.shape == (4 * 144, 4)
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    inside = slice(24 * 3, 24 * 21)  # three of 24 rows are padding above, three below
    assert sizes.sum() == pytest.approx(640 * 480) and sizes[inside].sum() == pytest.approx(640 * 480)
    assert np.allclose(boxes[inside][0], [0, 0, 640 / 24, 640 / 24])
    assert np.allclose(boxes[inside][-1], [640 - 640 / 24, 480 - 640 / 24, 640, 480])


def test_tiles_are_put_together_over_the_canvas() -> None:
    canvas = torch.arange(2 * 3 * 4).reshape(4, 6)
    tiles = canvas.reshape(2, 2, 3, 2).transpose(1, 2).reshape(6, 4, 1)
    assert merge_tiles(tiles, (3, 2)).flatten().tolist() == list(range(24))


def test_the_worked_example_of_selection() -> None:
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0])
    assert [len(select_top_p(scores, top_p)) for top_p in (0.95, 0.75, 1.0, 0.0)] == [3, 2, 4, 1]


def test_a_smaller_gamma_keeps_a_part_in_the_same_order() -> None:
    scores = torch.randn(200, generator=torch.Generator().manual_seed(5)) * 2
    kept = [select_top_p(scores, top_p).tolist() for top_p in (0.0, 0.3, 0.5, 0.75, 0.95, 1.0)]
    assert kept[0] == [int(scores.argmax())]
    for fewer, more in zip(kept, kept[1:], strict=False):
        assert set(fewer) <= set(more) and more == sorted(more)


def test_gamma_of_one_keeps_all_however_sharp_the_scores() -> None:
    scores = torch.randn(576, generator=torch.Generator().manual_seed(6)) * 6
    assert len(select_top_p(scores, 1.0)) == 576
    assert len(select_top_p(scores, 0.999999999)) < 576


def test_the_mean_does_not_depend_on_the_length_of_the_prompt() -> None:
    drawn = torch.Generator().manual_seed(7)
    tokens, words = torch.randn(60, 8, generator=drawn), torch.randn(5, 8, generator=drawn)
    once, twice = word_cosines(tokens, words), word_cosines(tokens, words.repeat(4, 1))
    assert torch.equal(select_top_p(once, 0.9, 1.0, "mean"), select_top_p(twice, 0.9, 1.0, "mean"))
    assert len(select_top_p(twice, 0.9, 1.0, "sum")) < len(select_top_p(once, 0.9, 1.0, "sum"))


def test_no_words_leave_every_token_alike() -> None:
    cosines = word_cosines(torch.randn(10, 4), torch.zeros(0, 4))
    assert len(select_top_p(cosines, 0.45, 1.0, "mean")) == len(select_top_p(cosines, 0.45)) == 5


@pytest.mark.parametrize(
    ("top_p", "temperature", "reduce"), [(1.1, 1, "sum"), (-0.1, 1, "sum"), (0.5, 0, "sum"), (1, 1, "su")]
)
def test_wrong_settings_of_the_selection(top_p: float, temperature: float, reduce: str) -> None:
    with pytest.raises(UserError, match="share|temperature|did you mean"):
        select_top_p(torch.zeros(3, 2), top_p, temperature, reduce)  # type: ignore[arg-type]


def test_a_fresh_gate_takes_the_mean_of_both_experts() -> None:
    torch.manual_seed(0)
    mixture = GatedMixture(4, 16, 2, 24)
    states = torch.randn(2, 16, 16)
    plain, resampled = mixture(states, "mlp")[0], mixture(states, "resampler")[0]
    mixed, shares = mixture(states)
    assert shares is not None and torch.allclose(shares, torch.full_like(shares, 0.5), atol=1e-6)
    assert torch.allclose(mixed, (plain + resampled) / 2, atol=1e-5)
    assert not torch.allclose(plain, resampled, atol=1e-3)


def test_the_noise_of_the_gate_trains_its_own_matrix() -> None:
    torch.manual_seed(0)
    mixture = GatedMixture(4, 16, 2, 24)
    states, noise = torch.randn(1, 16, 16), torch.randn(1, 16, 2)
    mixture(states, noise=noise)[0].square().sum().backward()
    assert mixture.w_noise.grad is not None and mixture.w_noise.grad.abs().max() > 0
    mixture.zero_grad()
    mixture(states, noise=noise, scale="gate")[0].square().sum().backward()
    assert mixture.w_noise.grad is None and mixture.w_gate.grad is not None


def test_sizes_of_the_published_resamplers() -> None:
    with torch.device("meta"):
        sizes = [sum(weight.numel() for weight in Resampler(side, 1024, 8).parameters()) for side in (24, 12)]
    assert [round(size / 1e6, 2) for size in sizes] == [4.79, 4.35]


def test_a_resampler_reads_squares_only() -> None:
    with pytest.raises(UserError, match="square grid"):
        Resampler(2, 8, 1)(torch.zeros(1, 6, 8))
    with pytest.raises(UserError, match="cannot have"):
        Resampler(2, 8, 3)
    with pytest.raises(UserError, match="4 divides"):
        Resampler(2, 6, 1)
