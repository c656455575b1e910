"""Every vision tower in every strategy: it trains, answers alike alone and in a batch, and comes back from its folder.

A pair that cannot work is refused in one line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.unit.modeling.conftest import build_small, grounded_sample
from tests.unit.modeling.small_towers import SMALL_TOWERS, small_kind
from tests.unit.modeling.test_matrix import VISION_ENCODERS, batch_of, samples

from ullava.config.load import load_config
from ullava.config.schema import LossConfig, ModelConfig
from ullava.errors import ConfigError, UserError
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.construction.outline import outline
from ullava.modeling.vision.strategies import STRATEGIES, build_strategy
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage

PAIRS = [(tower, strategy) for tower in SMALL_TOWERS for strategy in STRATEGIES]
NEEDS = (
    "vision.strategy conv needs a tower that sees images of any size (convnext or efficientnet_lite); vision.tower is "
    "a {}, which sees squares of its image_size"
)


def overrides(tower: str, strategy: str) -> tuple[str, ...]:
    own = tuple(entry for entry in VISION_ENCODERS[strategy] if not entry.startswith("vision.tower"))
    described = yaml.safe_dump({"config": SMALL_TOWERS[tower]}, default_flow_style=True, width=10_000).strip()
    return (*own, f"vision.tower={described}", "vision.vision_feature_layer=-1")


def can_take(tower: str, strategy: str) -> bool:
    return small_kind(tower).any_size or not STRATEGIES[strategy].any_size


def test_most_pairs_work() -> None:
    assert len(PAIRS) == 35 and sum(can_take(*pair) for pair in PAIRS) == 30


@pytest.mark.parametrize(("tower", "strategy"), [pair for pair in PAIRS if can_take(*pair)])
def test_they_train_and_answer_together(tower: str, strategy: str, tmp_path: Path) -> None:
    model, processor = build_small(overrides(tower, strategy))
    given = samples()
    batch = batch_of(processor, given)
    with torch.no_grad():
        before = model(**batch.inputs.as_kwargs())
        alone = model(**batch_of(processor, given[:1]).inputs.as_kwargs())
    torch.testing.assert_close(
        alone.seg.mask_logits_lowres, before.seg.mask_logits_lowres[:2], rtol=1e-4, atol=1e-5
    )  # fmt: skip

    plan = apply_stage(model, "scratch", quality_trains=False)
    model.train()
    output = model(**batch.inputs.as_kwargs())
    objective = GroundingObjective(LossConfig(), processor.masks, model.vision.aux_terms)
    objective(output, batch.targets).total.backward()
    reached = {name for name, value in model.named_parameters() if value.grad is not None}
    assert not {name for name in plan.trainable - reached if not name.startswith("mask_head.sam.")}
    assert any(name.startswith("vision.tower.") for name in plan.trainable)
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    model.eval()

    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, processor_again = load_folder(tmp_path, torch.float32)
    assert again.config.vision_config.model_type == SMALL_TOWERS[tower]["model_type"]
    assert type(again.vision.kind) is type(model.vision.kind)
    after = again(**batch_of(processor_again, given).inputs.as_kwargs())
    torch.testing.assert_close(after.supervised_logits, before.supervised_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.seg.mask_logits_lowres, before.seg.mask_logits_lowres, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("tower", "strategy"), [pair for pair in PAIRS if not can_take(*pair)])
def test_a_pair_that_cannot_work_is_refused_by_what_it_needs(tower: str, strategy: str, tmp_path: Path) -> None:
    said = NEEDS.format(SMALL_TOWERS[tower]["model_type"])
    with pytest.raises(ConfigError) as caught:
        build_small(overrides(tower, strategy))
    assert len(caught.value.problems) == 1 and caught.value.problems[0].endswith(f": {said}")
    model, _ = build_small(overrides(tower, "clip_mlp"))
    model.config.strategy = strategy
    with pytest.raises(UserError) as caught:
        build_strategy(model.config, 32)
    assert caught.value.problems == (said,), "a saved model whose files were changed"


def test_the_low_view_of_mg_is_normalized_for_its_tower_and_the_high_one_for_its_pyramid() -> None:
    model, processor = build_small(overrides("siglip", "mg"))
    seen: dict[str, torch.Tensor] = {}
    model.vision.tower.embeddings.register_forward_hook(lambda _module, given, _made: seen.update(low=given[0]))
    model.vision.pyramid.register_forward_hook(lambda _module, given, _made: seen.update(high=given[0]))
    batch = batch_of(processor, [grounded_sample("a", 1)])
    with torch.no_grad():
        model(**batch.inputs.as_kwargs())
    pixels = torch.stack(list(batch.inputs.images.views["base"])).float() / 255
    low = torch.nn.functional.interpolate(pixels, (32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(seen["low"], (low - 0.5) / 0.5, rtol=1e-4, atol=1e-4)
    clip = model.vision.pyramid.kind
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (clip.image_mean, clip.image_std))
    torch.testing.assert_close(seen["high"], (pixels - mean) / std, rtol=1e-4, atol=1e-4)


def test_a_model_yaml_with_siglip_is_told_in_figures(tmp_path: Path) -> None:
    from tests.unit.modeling.conftest import ROOT, SMALL

    described: Any = yaml.safe_load(SMALL) | {"tokenizer": str(ROOT / "models/tiny/tokenizer")}
    described["vision"] = {"tower": {"config": SMALL_TOWERS["siglip"]}, "vision_feature_layer": -1}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(described))
    told = outline(load_config(ModelConfig, tmp_path / "model.yaml"), tmp_path)
    assert told.parts["vision tower"] == sum(p.numel() for p in small_kind("siglip").build().parameters())
    assert all(count.low == count.high == 16 for count in told.images.values())

    described["vision"]["strategy"] = "conv"
    described["vision"]["image_aspect_ratio"] = "any"
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(ConfigError) as caught:
        outline(load_config(ModelConfig, tmp_path / "model.yaml"), tmp_path)
    assert str(tmp_path / "model.yaml") in caught.value.problems[0]
    assert caught.value.problems[0].endswith(NEEDS.format("siglip_vision_model"))
