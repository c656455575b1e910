"""The ConvNeXt vision encoder: sizes, budgets, stages, and images of all shapes in one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.modeling.conftest import build_small, grounded_sample, make_image
from transformers import ConvNextConfig, ConvNextModel

from ullava.batching.collate import Collator
from ullava.config.schema import LossConfig
from ullava.errors import ConfigError, UserError
from ullava.modeling.towers.convnext import load_stages
from ullava.modeling.towers.table import tower_of
from ullava.modeling.vision.conv import MEAN_COLOR, ConvPreprocessor, ConvStrategy, fit_any
from ullava.modeling.vision.strategy import EncodeContext, ItemNotes
from ullava.structures import Sample, Turn
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage

TOWER = (
    "vision.tower.config={num_stages: 5, hidden_sizes: [8, 8, 12, 12, 16], depths: [1, 1, 1, 1, 1], patch_size: 1, "
    "image_size: 64, layer_scale_init_value: 1.0, initializer_range: 0.2}"
)
CONV = ("vision.strategy=conv", TOWER, "vision.conv={video_side: 32}")
"""A tower of stride 16, so that 64 x 64 pixels give 16 tokens."""


@pytest.fixture(scope="module")
def conv() -> tuple[Any, Any]:
    return build_small((*CONV, "vision.image_aspect_ratio=any"))


def plain(side: int = 768, image_aspect_ratio: str = "pad", area: float = 1.0, stride: int = 64) -> ConvPreprocessor:
    return ConvPreprocessor(side, stride, image_aspect_ratio, area=area, video_side=side, video="frames")


@pytest.mark.parametrize(
    "side, orig, wanted", [(768, (500, 375), 144), (1024, (100, 100), 256), (1536, (3000, 10), 576)]
)
def test_squares_give_the_published_counts(side: int, orig: tuple[int, int], wanted: int) -> None:
    made = plain(side).preprocess(np.zeros((orig[1], orig[0], 3), dtype=np.uint8))
    assert (made.count.low, made.count.high) == (wanted, wanted)
    assert made.views["base"].shape == (3, side, side) and made.grid_hw == (side // 64, side // 64)


def test_any_shape_is_kept_in_multiples_of_the_stride() -> None:
    assert fit_any((1536, 768), 768, 64, 288) == (1536, 768)
    made = plain(image_aspect_ratio="any", area=2.0).preprocess(np.zeros((384, 768, 3), dtype=np.uint8))
    assert made.views["base"].shape == (3, 768, 1536) and made.count.low == 288 and made.grid_hw == (12, 24)
    view = made.geometry["base"]
    np.testing.assert_allclose(view.to_view([0, 0, 768, 384]), [0, 0, 1536, 768])
    np.testing.assert_allclose(view.to_orig(view.to_view([10.5, 20, 300, 80])), [10.5, 20, 300, 80])


@pytest.mark.parametrize("orig", [(640, 480), (480, 640), (2000, 400), (3000, 30), (30, 3000), (33, 32), (5000, 5000)])
@pytest.mark.parametrize("most", [144, 100, 7, 1])
def test_no_shape_exceeds_its_tokens(orig: tuple[int, int], most: int) -> None:
    width, height = fit_any(orig, 768, 64, most)
    assert width % 64 == height % 64 == 0 and min(width, height) >= 64
    assert (width // 64) * (height // 64) <= max(most, 1)
    if most == 144 and max(orig) < 4 * min(orig):
        assert abs(np.log(width / height * orig[1] / orig[0])) < 0.12, "the shape is kept"


def test_padding_has_the_mean_color_and_budgets_lower_the_resolution() -> None:
    wide = np.full((20, 60, 3), 255, dtype=np.uint8)
    made = plain(128).preprocess(wide)
    assert made.views["base"][:, 0, 0].tolist() == list(MEAN_COLOR)
    tight = plain(256).preprocess(wide, ItemNotes(budget=9))
    assert tight.shrunk and tight.count.high == 9 and tight.views["base"].shape == (3, 192, 192)
    assert tight.variant != plain(256).preprocess(wide).variant == ""
    assert not plain(256).preprocess(wide, ItemNotes(budget=16)).shrunk
    assert plain(256, "any").preprocess(wide, ItemNotes(budget=5)).count.high <= 5


def test_resolution_can_be_forced_and_wrong_sizes_are_refused() -> None:
    black = np.zeros((10, 10, 3), dtype=np.uint8)
    assert plain(768).preprocess(black, ItemNotes(overrides={"resolution": 1024})).count.low == 256
    with pytest.raises(UserError, match="resolution 1000 is no multiple of 64"):
        plain(768).preprocess(black, ItemNotes(overrides={"resolution": 1000}))
    with pytest.raises(UserError, match="no override 'resolutoin'; did you mean 'resolution'"):
        plain(768).preprocess(black, ItemNotes(overrides={"resolutoin": 1024}))
    with pytest.raises(UserError, match="image_size 800 is no multiple of the tower's stride 64"):
        plain(800)
    with pytest.raises(ConfigError, match="image_aspect_ratio any belongs to strategy conv"):
        build_small(("vision.image_aspect_ratio=any",))
    with pytest.raises(ConfigError, match="table conv belongs to strategy conv"):
        build_small(("vision.conv={area: 2.0}",))


def test_the_real_tower_has_the_published_size() -> None:
    """Spec part 3.1: 669 M parameters, 472.9 M of them in the fifth stage; the projector has 29.4 M."""
    config = ConvNextConfig(num_stages=5, depths=[3, 3, 27, 3, 6], hidden_sizes=[192, 384, 768, 1536, 3072])
    with torch.device("meta"):
        made = ConvStrategy(config, projector="mlp2x", width_out=4096, video="frames")
    sizes = {
        part.name: sum(p.numel() for n, p in made.named_parameters() if n.startswith(part.prefixes))
        for part in made.parts()[:-1]
    }
    published = [0.9e6, 3.9e6, 129.8e6, 61.6e6, 472.9e6]
    assert list(sizes.values()) == [pytest.approx(size, abs=5e4) for size in published]
    assert sum(sizes.values()) == pytest.approx(669e6, rel=1e-3)
    assert sum(p.numel() for p in made.projector.parameters()) == pytest.approx(29.4e6, rel=0.01)
    assert tower_of(config).stride(-1) == 64


def rows(processor: Any, shapes: list[tuple[int, int]], prompt_only: bool = False) -> list[Any]:
    samples = [grounded_sample(f"{number}", 1, *shape) for number, shape in enumerate(shapes)]
    return [
        processor.encode(sample, [make_image(number, *shapes[number])], prompt_only=prompt_only)
        for number, sample in enumerate(samples)
    ]


SHAPES = [(40, 56), (40, 56), (90, 40), (30, 150)]


def test_images_of_all_shapes_in_a_batch_equal_single_ones(conv: tuple[Any, Any]) -> None:
    model, processor = conv
    collate = Collator(processor.tokenizer.pad_token_id)
    examples = rows(processor, SHAPES)
    words = Sample("words", "test", "text", (), (Turn("How are you?", "Fine."),))
    batch = collate([*examples, processor.encode(words, [])])
    assert len({tuple(pixels.shape) for pixels in batch.inputs.as_kwargs()["pixel_values"]}) == 3
    together = model(**batch.inputs.as_kwargs())
    assert [example.images[0].count.low for example in examples] == list(model.core.encode_images(batch.inputs).counts)
    at = 0
    for number, example in enumerate(examples):
        alone = model(**collate([example]).inputs.as_kwargs())
        size = len(alone.targets)
        torch.testing.assert_close(
            together.supervised_logits[at : at + size], alone.supervised_logits, rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            together.seg.mask_logits_lowres[number], alone.seg.mask_logits_lowres[0], rtol=1e-4, atol=1e-5
        )
        at += size


def test_generation_with_images_of_all_shapes(conv: tuple[Any, Any]) -> None:
    model, processor = conv
    left = Collator(processor.tokenizer.pad_token_id, "left")
    examples = rows(processor, SHAPES, prompt_only=True)

    def said(chosen: list[Any]) -> list[list[int]]:
        return model.generate(**left(chosen).inputs.as_kwargs(), max_new_tokens=4, do_sample=False)[:, -4:].tolist()

    assert said(examples) == [said([example])[0] for example in examples]


def test_videos_give_all_tokens_of_each_frame_or_their_means() -> None:
    for video, total in (("frames", 8 * 4), ("pooled", 8 + 4)):
        model, processor = build_small((*CONV, f"vision.conv.video={video}"))
        frames = np.stack([make_image(number, 30, 44) for number in range(8)])
        inputs = processor.vision.preprocess_video(frames)
        assert inputs.count.low == total and inputs.views["base"].shape == (8, 3, 32, 32)
        output = model.vision.encode_video({"base": torch.from_numpy(inputs.views["base"])[None]})
        assert output.counts == (total,) and output.tokens.shape == (total, 32)
    state = model.vision.encode_states(torch.from_numpy(inputs.views["base"]))
    expected = model.vision.projector(torch.cat([state.mean(dim=1), state.mean(dim=0)]))
    torch.testing.assert_close(output.tokens, expected)
    with pytest.raises(UserError, match="no override 'frames'"):
        model.vision.encode_video({"base": []}, EncodeContext(overrides={"frames": 1}))


def test_stages_of_the_tower_train_one_by_one() -> None:
    model, processor = build_small(CONV)
    chosen = {"vision stage 5": True, "special-token rows": False}
    plan = apply_stage(model, "align", parts=chosen)
    assert plan.trainable and all(
        name.startswith(("vision.tower.encoder.stages.4.", "vision.projector.")) for name in plan.trainable
    )
    assert not any("language_model" in name for name in plan.trainable)
    model.train()
    batch = Collator(processor.tokenizer.pad_token_id)(rows(processor, SHAPES[:2]))
    output = model(**batch.inputs.as_kwargs())
    pixels = model.vision.normalize(batch.inputs.as_kwargs()["pixel_values"])
    maps = model.vision.kind.maps(model.vision.tower, pixels)[1:]
    assert [state.requires_grad for state in maps] == [False, False, False, False, True]
    GroundingObjective(LossConfig(), processor.masks)(output, batch.targets).total.backward()
    assert {name for name, value in model.named_parameters() if value.grad is not None} == plan.trainable


def test_a_tower_of_four_stages_is_the_start_of_one_of_five(tmp_path: Path) -> None:
    sizes = {"hidden_sizes": [8, 8, 12, 12], "depths": [1, 1, 1, 1], "patch_size": 1, "image_size": 64}
    torch.manual_seed(3)
    ConvNextModel(ConvNextConfig(num_stages=4, **sizes)).save_pretrained(tmp_path)
    five = "config: {num_stages: 5, hidden_sizes: [8, 8, 12, 12, 16], depths: [1, 1, 1, 1, 1]}"
    model, processor = build_small((CONV[0], CONV[2], f"vision.tower={{path: {tmp_path}, {five}}}"))
    stored = ConvNextModel.from_pretrained(tmp_path).state_dict()
    tower = model.vision.tower.state_dict()
    assert all(torch.equal(tower[name], value) for name, value in stored.items() if not name.startswith("layernorm"))
    assert processor.vision.stride == 16 and len(model.vision.tower.encoder.stages) == 5
    del stored["embeddings.layernorm.bias"]
    found = load_stages(model.vision.tower, stored | {"encoder.stages.1.layers.0.other": torch.zeros(1)})
    assert found == ["missing: embeddings.layernorm.bias [8]", "unexpected: encoder.stages.1.layers.0.other [1]"]
    stored["embeddings.layernorm.bias"] = torch.zeros(9)
    assert load_stages(model.vision.tower, stored) == [
        "shape: embeddings.layernorm.bias is [9] in the file and [8] in the model"
    ]


def test_save_and_load_give_the_same_tokens(conv: tuple[Any, Any], tmp_path: Path) -> None:
    from ullava.modeling.construction.auto import load_folder

    model, processor = conv
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, processor_again = load_folder(tmp_path, torch.float32)
    (row,) = rows(processor_again, SHAPES[:1])
    batch = Collator(processor.tokenizer.pad_token_id)([row]).inputs
    assert torch.equal(again.core.encode_images(batch).tokens, model.core.encode_images(batch).tokens)
    assert processor_again.vision.area == 1.0 and again.config.vision_settings == model.config.vision_settings
