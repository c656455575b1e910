"""Strategy ``avg`` by itself: counts, choices, batches, budgets, videos, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig

from ullava.errors import UserError
from ullava.modeling.vision.avg import Avg, AvgPreprocessor
from ullava.modeling.vision.strategy import EncodeContext, ItemNotes

SETTINGS = {
    "levels": [],
    "granularity": None,
    "image_grid_pinpoints": [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]],
    "unpad": "pixels",
    "attention_axis": "tokens",
    "text_slots": 5,
    "heads": 4,
    "dropout": 0.1,
    "video_levels": 3,
}
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER |= {"image_size": 56, "patch_size": 14}
SIZES = ((90, 60), (30, 120), (56, 56))


def build(**other):
    torch.manual_seed(0)
    settings = SETTINGS | other
    strategy = Avg(
        CLIPVisionConfig(**TOWER), vision_feature_layer=-2, projector="mlp2x", width_out=32, settings=settings
    )
    strategy.init_new_weights(frozenset())
    return AvgPreprocessor(56, 14, settings), strategy.eval()


def make_image(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def views(items):
    return {name: [torch.from_numpy(item.views[name]) for item in items] for name in items[0].views}


def context(places, seed=7, length=9, **other):
    torch.manual_seed(seed)
    words = torch.randn(len(places), length, 32)
    mask = torch.ones(len(places), length)
    mask[1:, 6:] = 0
    return EncodeContext(tuple(places), tuple(range(len(places))), words, mask, **other)


@pytest.fixture(scope="module")
def parts():
    return build()


def test_pointing_is_never_seen_below_the_floor(parts):
    """The same image and words in two rows, of which the second points: the router's choice, and the floor."""
    preprocessor, strategy = parts
    items = [preprocessor.preprocess(make_image(90, 60))]
    free = strategy.encode(views(items), context([0, 0]))
    levels = strategy.levels
    chosen = free.diagnostics["granularity"]
    assert chosen[1] < levels[-1], "a floor that changes nothing would show nothing"
    for floor in levels:
        floored = build(min_level=floor)[1]
        seen = floored.encode(views(items), context([0, 0], grounded=(False, True)))
        allowed = [level for level in levels if level >= floor]
        best = max(allowed, key=lambda level: float(seen.diagnostics["probability"][1][levels.index(level)]))
        assert seen.diagnostics["granularity"] == (chosen[0], best)
        assert seen.diagnostics["granularity"][1] >= floor
        unmarked = floored.encode(views(items), context([0, 0]))
        assert unmarked.diagnostics["granularity"] == chosen
    forced = build(min_level=levels[-1])[1].encode(
        views(items), context([0], grounded=(True,), overrides={"granularity": levels[0]})
    )
    assert forced.diagnostics["granularity"] == (levels[0],)


def test_a_floor_above_what_fits_gives_the_finest_that_does():
    preprocessor, strategy = build(min_level=16)
    counts = preprocessor.preprocess(make_image(90, 60)).count
    short = preprocessor.preprocess(make_image(90, 60), ItemNotes(budget=counts.low + 3))
    assert short.views["plan"][2] < 16
    seen = strategy.encode(views([short]), context([0], grounded=(True,)))
    assert seen.diagnostics["granularity"] == (int(short.views["plan"][2]),)


def test_a_film_has_the_floor_too():
    preprocessor, _ = build()
    clip = preprocessor.preprocess_video(np.stack([make_image(40, 40, n) for n in range(2)]))
    for floor in preprocessor.video_levels:
        strategy = build(min_level=floor)[1]
        seen = strategy.encode_video(views([clip]), context([0], grounded=(True,)))
        assert seen.diagnostics["granularity"][0] >= floor


def test_a_floor_that_is_no_level_is_refused():
    with pytest.raises(UserError, match="vision.avg.min_level has to be one of 1, 2, 4, 8, 16, not 5"):
        build(min_level=5)


def test_counts(parts):
    preprocessor, strategy = parts
    assert preprocessor.levels == strategy.levels == (1, 2, 4, 8, 16) and preprocessor.video_levels == (1, 2, 4)
    made = preprocessor.preprocess(make_image(56, 56))
    # The middle of two tiles one above the other: 4 rows of 4 columns, or 2 rows of 1; a newline each.
    assert (made.count.low, made.count.high) == (1 + 2 * 2, 16 + 4 * 5) and made.views["tiles"].shape == (2, 3, 56, 56)
    forced = preprocessor.preprocess(make_image(56, 56), ItemNotes(overrides={"granularity": 16}))
    assert forced.count.low == forced.count.high == 36 and forced.variant != made.variant
    tight = preprocessor.preprocess(make_image(56, 56), ItemNotes(budget=35))
    assert tight.shrunk and tight.count.high < 36 and tight.views["plan"].tolist() == [56, 56, 8]
    assert preprocessor.preprocess(make_image(56, 56), ItemNotes(budget=1)).views["plan"][2] == 1
    assert set(made.geometry) == {"base", "tile_0", "tile_1"}
    assert build(levels=[16, 1, 4])[0].levels == (1, 4, 16)


@pytest.mark.parametrize("axis", ["tokens", "crops"])
def test_a_image_alone_is_the_image_in_a_batch(axis):
    preprocessor, strategy = build(attention_axis=axis)
    items = [preprocessor.preprocess(make_image(*size, seed)) for seed, size in enumerate(SIZES)]
    around = context((2, 0, 1))
    with torch.no_grad():
        together = strategy.encode(views(items), around)
        pieces = together.tokens.split(together.counts)
        for place, item in enumerate(around.places):
            row = EncodeContext((0,), (0,), around.words[[place]], around.word_mask[[place]])
            alone = strategy.encode(views([items[item]]), row)
            assert alone.diagnostics["granularity"] == together.diagnostics["granularity"][place : place + 1]
            assert torch.allclose(alone.tokens, pieces[place], atol=1e-5)
            assert items[item].count.low <= len(pieces[place]) <= items[item].count.high
    assert together.per_place and together.diagnostics["probability"].shape == (3, 5)


def test_question_decides_and_nothing_else_does(parts):
    """Words behind the mask (answers, padding) do not reach the router; other questions choose other levels."""
    preprocessor, strategy = parts
    item = preprocessor.preprocess(make_image(90, 60))
    around = context((0, 0))
    with torch.no_grad():
        logits = strategy.router_logits(views([item]), around)
        longer = torch.cat([around.words, torch.randn(2, 4, 32)], dim=1)
        longer[1, 6:] = 99.0
        mask = torch.cat([around.word_mask, torch.zeros(2, 4)], dim=1)
        again = strategy.router_logits(views([item]), EncodeContext((0, 0), (0, 1), longer, mask))
        assert torch.allclose(logits, again, atol=1e-5) and not torch.allclose(logits[0], logits[1], atol=1e-3)
        chosen = {strategy.encode(views([item]), context((0,), seed)).diagnostics["granularity"] for seed in range(12)}
    assert len(chosen) > 1


def test_forced_levels(parts):
    preprocessor, strategy = parts
    items = [preprocessor.preprocess(make_image(*size, seed)) for seed, size in enumerate(SIZES)]
    assert [overrides["granularity"] for overrides in strategy.candidates()] == [1, 2, 4, 8, 16]
    for overrides in strategy.candidates():
        counted = [preprocessor.preprocess(make_image(*size), ItemNotes(overrides=overrides)).count for size in SIZES]
        with torch.no_grad():
            output = strategy.encode(views(items), EncodeContext(overrides=overrides))
        assert not output.per_place and all(count.exact for count in counted)
        assert output.counts == tuple(count.low for count in counted)


def test_a_model_may_always_see_alike(parts):
    """Before its router is trained; an override still wins."""
    preprocessor, strategy = build(granularity=16)
    item = preprocessor.preprocess(make_image(56, 56))
    assert item.count.low == item.count.high == 36
    with torch.no_grad():
        assert strategy.encode(views([item])).counts == (36,)
        assert strategy.encode(views([item]), EncodeContext(overrides={"granularity": 4})).counts[0] < 36
        assert strategy.encode(views([item]), context((0,), overrides={"granularity": None})).per_place
    with pytest.raises(UserError, match="granularity has to be one of"):
        build(granularity=5)[0].preprocess(make_image(9, 9))


def test_budget_binds_the_router(parts):
    preprocessor, strategy = parts
    item = preprocessor.preprocess(make_image(56, 56), ItemNotes(budget=14))
    with torch.no_grad():
        for seed in range(6):
            output = strategy.encode(views([item]), context((0,), seed))
            assert output.counts[0] <= 14 and item.count.low <= output.counts[0] <= item.count.high


def test_gradients(parts):
    """The choice passes the gradient of the softmax on; a forced level leaves the router out, but not behind."""
    preprocessor, strategy = build(dropout=0.0)
    item = preprocessor.preprocess(make_image(90, 60))
    strategy.train()
    output = strategy.encode(views([item]), context((0,)))
    output.tokens.square().sum().backward()
    assert bool(strategy.router.voter.grad.any()) and bool(strategy.newline.weight.grad.any())
    strategy.zero_grad()
    forced = strategy.encode(views([item]), EncodeContext(overrides={"granularity": 4}))
    (forced.tokens.sum() + forced.idle).backward()
    unread = strategy.unread()
    missing = [n for n, value in strategy.named_parameters() if value.grad is None and not n.startswith(unread)]
    assert missing == [] and not strategy.router.voter.grad.any()
    strategy.zero_grad()
    strategy.encode_dummy().backward()
    assert all(value.grad is not None and not value.grad.any() for value in strategy.parameters())


def test_tower_trains_where_it_should(parts):
    preprocessor, strategy = build()
    item = preprocessor.preprocess(make_image(90, 60))
    strategy.encode(views([item]), EncodeContext(overrides={"granularity": 16})).tokens.sum().backward()
    assert strategy.tower.embeddings.patch_embedding.weight.grad is not None
    strategy.tower.requires_grad_(False)
    assert not strategy.patch_states(torch.zeros(1, 3, 56, 56)).requires_grad


def test_half_precision_is_finite(parts):
    preprocessor, strategy = parts
    item, around = preprocessor.preprocess(make_image(90, 60)), context((0,))
    with torch.no_grad():
        exact = strategy.router_logits(views([item]), around)
        with torch.autocast("cpu", torch.bfloat16):
            rough = strategy.encode(views([item]), around)
        half = build()[1].bfloat16().encode(views([item]), around)
    assert torch.isfinite(exact).all()
    for output in (rough, half):
        assert torch.isfinite(output.tokens).all() and torch.isfinite(output.diagnostics["probability"]).all()


def test_video(parts):
    preprocessor, strategy = parts
    frames = np.stack([make_image(90, 60, seed) for seed in range(3)])
    clip = preprocessor.preprocess_video(frames)
    assert (clip.count.low, clip.count.high) == (3, 12)
    both = views([clip, preprocessor.preprocess_video(frames[::-1].copy())])
    with torch.no_grad():
        output = strategy.encode_video(both, context((1, 0)))
        single = strategy.encode_video({"base": both["base"][:1]}, context((0, 0)))
        forced = strategy.encode_video(both, EncodeContext(overrides={"granularity": 16}))
    assert output.per_place and all(3 <= count <= 12 for count in output.counts)
    assert set(output.diagnostics["granularity"]) <= {1, 2, 4}
    assert torch.allclose(output.tokens.split(output.counts)[1], single.tokens.split(single.counts)[1], atol=1e-5)
    assert forced.counts == (48, 48)
    assert preprocessor.preprocess_video(frames, ItemNotes(overrides={"granularity": 16})).count.low == 48


def test_refusals(parts):
    preprocessor, strategy = parts
    for wrong in (3, True, [16], "16"):
        with pytest.raises(UserError, match="granularity has to be one of 1, 2, 4, 8, 16, not"):
            preprocessor.preprocess(make_image(9, 9), ItemNotes(overrides={"granularity": wrong}))
    with pytest.raises(UserError, match="no override 'granularty'; did you mean 'granularity'"):
        strategy.encode({}, EncodeContext(overrides={"granularty": 4}))
    with pytest.raises(UserError, match="chooses by the question"):
        strategy.encode(views([preprocessor.preprocess(make_image(9, 9))]))
    with pytest.raises(UserError, match=r"a canvas is \[columns, rows\], not \[2\]"):
        build(image_grid_pinpoints=[[2]])
    with pytest.raises(UserError, match="no granularity of 5 tokens"):
        build(levels=[5])
