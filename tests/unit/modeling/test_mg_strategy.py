"""Strategy ``mg`` by itself: counts, boxes, batches, videos, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig

from ullava.errors import UserError
from ullava.modeling.vision.mg import Mg, MgPreprocessor
from ullava.modeling.vision.strategy import EncodeContext, ItemNotes, VisionInputs
from ullava.structures import DetectedBoxes

PYRAMID = {
    "model_type": "convnext",
    "patch_size": 4,
    "num_stages": 4,
    "hidden_sizes": [8, 16, 32, 64],
    "depths": [1, 1, 1, 1],
    "layer_scale_init_value": 1.0,
}
SETTINGS = {
    "pyramid": PYRAMID,
    "fusion": "gate",
    "pooling": "pyramid",
    "box_rule": "top",
    "max_boxes": 100,
    "embed_boxes": False,
    "frame_pool": 2,
}
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER |= {"image_size": 56, "patch_size": 14}


def build(**other):
    torch.manual_seed(0)
    settings = SETTINGS | other
    config = CLIPVisionConfig(**TOWER)
    strategy = Mg(config, vision_feature_layer=-2, projector="mlp2x", width_out=32, settings=settings)
    return MgPreprocessor(56, 14, settings), strategy.eval()


def make_image(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def boxes(*corners):
    return DetectedBoxes(
        np.asarray(corners, dtype=np.float64).reshape(-1, 4),
        np.linspace(0.9, 0.1, len(corners)),
        tuple(f"thing {number}" for number in range(len(corners))),
    )


def views(items: list[VisionInputs]):
    made = {name: [torch.from_numpy(item.views[name]) for item in items] for name in items[0].views}
    return made | {"base": torch.stack(made["base"])}


@pytest.fixture(scope="module")
def parts():
    return build()


def test_counts(parts):
    preprocessor, _ = parts
    assert preprocessor.high == 128
    assert preprocessor.preprocess(make_image(90, 60)).count.low == 16
    made = preprocessor.preprocess(make_image(200, 100), ItemNotes(boxes=boxes([0, 0, 200, 100], [10, 10, 60, 60])))
    assert (made.count.low, made.count.high, made.grid_hw) == (18, 18, None)
    assert made.views["boxes"][0].tolist() == [0, 32, 128, 96]
    many = boxes(*([x, y, x + 9, y + 9] for y in range(0, 100, 10) for x in range(0, 130, 10)))
    assert preprocessor.preprocess(make_image(200, 100), ItemNotes(boxes=many)).count.low == 16 + 100
    fewer = preprocessor.preprocess(make_image(200, 100), ItemNotes(boxes=many, overrides={"max_boxes": 3}))
    assert fewer.count.low == 19 and not fewer.shrunk
    tight = preprocessor.preprocess(make_image(200, 100), ItemNotes(boxes=many, budget=18))
    assert tight.count.low == 18 and tight.shrunk
    assert len({made.variant, fewer.variant, tight.variant, preprocessor.preprocess(make_image(9, 9)).variant}) == 4


def test_released_rule_gives_one_token_for_nothing_found():
    preprocessor, _ = build(box_rule="released")
    made = preprocessor.preprocess(make_image(90, 60))
    assert made.count.low == 17 and not made.views["boxes"].any()


def test_a_image_alone_is_the_image_in_a_batch(parts):
    preprocessor, strategy = parts
    notes = [boxes([5, 5, 50, 40], [30, 2, 88, 50]), None, boxes([0, 0, 20, 20])]
    items = [
        preprocessor.preprocess(make_image(90, 60, seed), ItemNotes(boxes=found)) for seed, found in enumerate(notes)
    ]
    with torch.no_grad():
        together = strategy.encode(views(items))
        alone = [strategy.encode(views([item])) for item in items]
    assert together.counts == (18, 16, 17) == tuple(item.count.low for item in items)
    assert torch.allclose(together.tokens, torch.cat([one.tokens for one in alone]), atol=1e-5)
    assert together.diagnostics["boxes"] == (2, 0, 1) and together.diagnostics["gate"].shape == (3,)


def test_boxes_add_tokens_and_change_none(parts):
    preprocessor, strategy = parts
    plain, found = (
        preprocessor.preprocess(make_image(90, 60), ItemNotes(boxes=given))
        for given in (None, boxes([5, 5, 50, 40], [60, 20, 88, 50]))
    )
    with torch.no_grad():
        without, within = strategy.encode(views([plain])).tokens, strategy.encode(views([found])).tokens
    assert torch.equal(within[:16], without) and not torch.allclose(within[16], within[17], atol=1e-4)


@pytest.mark.parametrize("fusion", ["gate", "gate_concat", "concat", "raw_concat"])
@pytest.mark.parametrize("pooling", ["pyramid", "last_only", "multi_level"])
def test_every_kind_learns(fusion, pooling):
    preprocessor, strategy = build(fusion=fusion, pooling=pooling, embed_boxes=True)
    made = preprocessor.preprocess(make_image(90, 60), ItemNotes(boxes=boxes([5, 5, 50, 40])))
    strategy.train()
    for name in ("tower", "pyramid"):
        strategy.get_submodule(name).requires_grad_(False)
    strategy.encode(views([made])).tokens.square().sum().backward()
    missing = [name for name, value in strategy.named_parameters() if value.requires_grad and value.grad is None]
    assert missing == []
    assert bool(strategy.objects.projector[0].weight.grad.any())


def test_no_box_leaves_no_weight_without_a_gradient(parts):
    """Processes that train together wait for every weight, whether or not an image of theirs has boxes."""
    preprocessor, strategy = build(pooling="multi_level", embed_boxes=True)
    strategy.train()
    strategy.encode(views([preprocessor.preprocess(make_image(90, 60))])).tokens.sum().backward()
    unread = strategy.unread()
    missing = [n for n, value in strategy.named_parameters() if value.grad is None and not n.startswith(unread)]
    assert missing == [] and not strategy.objects.projector[0].weight.grad.any()
    strategy.zero_grad()
    strategy.encode_dummy().backward()
    assert all(value.grad is not None and not value.grad.any() for value in strategy.parameters())


def test_half_precision_is_finite(parts):
    preprocessor, strategy = parts
    made = preprocessor.preprocess(make_image(90, 60), ItemNotes(boxes=boxes([5, 5, 50, 40])))
    with torch.no_grad():
        exact = strategy.encode(views([made])).tokens
        with torch.autocast("cpu", torch.bfloat16):
            rough = strategy.encode(views([made])).tokens
        half = build()[1].bfloat16().encode(views([made])).tokens
    for found in (rough, half):
        assert torch.isfinite(found).all() and torch.allclose(found.float(), exact, atol=0.1)


def test_video(parts):
    preprocessor, strategy = parts
    frames = np.stack([make_image(90, 60, seed) for seed in range(3)])
    found = (boxes([5, 5, 50, 40]), None, boxes([0, 0, 20, 20], [40, 20, 80, 50]))
    clip = preprocessor.preprocess_video(frames, ItemNotes(frame_boxes=found))
    assert clip.count.low == 3 * 4 + 3
    plain = preprocessor.preprocess_video(frames)
    assert plain.count.low == 12
    both = {name: [torch.from_numpy(item.views[name]) for item in (clip, plain)] for name in clip.views}
    with torch.no_grad():
        output = strategy.encode_video(both | {"base": torch.stack(both["base"])})
        second = strategy.encode_video({name: value[1:] for name, value in both.items()})
        stills = [strategy.encode(views([preprocessor.preprocess(frame)])).tokens for frame in frames]
    assert output.counts == (15, 12)
    first, other = output.tokens.split(output.counts)
    assert torch.allclose(other, second.tokens, atol=1e-5)
    assert torch.allclose(first[:4], other[:4], atol=1e-5) and torch.allclose(first[5:9], other[4:8], atol=1e-5)
    assert stills[0].shape == (16, 32)
    with pytest.raises(UserError, match="boxes of 2 frames for a video of 3"):
        preprocessor.preprocess_video(frames, ItemNotes(frame_boxes=found[:2]))


def test_refusals(parts):
    preprocessor, strategy = parts
    with pytest.raises(UserError, match="no override 'max_box'; did you mean 'max_boxes'"):
        preprocessor.preprocess(make_image(9, 9), ItemNotes(overrides={"max_box": 2}))
    with pytest.raises(UserError, match="no override 'granularity'"):
        strategy.encode({}, EncodeContext(overrides={"granularity": 3}))
    with pytest.raises(UserError, match="whole number from 0, not -1"):
        preprocessor.preprocess(make_image(9, 9), ItemNotes(overrides={"max_boxes": -1}))
    with pytest.raises(UserError, match="frame_pool 3: a grid of 4 x 4"):
        build(frame_pool=3)
    with pytest.raises(UserError, match="the tower has 2 layers"):
        Mg(CLIPVisionConfig(**TOWER), vision_feature_layer=-4, projector="linear", width_out=8, settings=SETTINGS)
