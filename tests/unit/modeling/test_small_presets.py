"""models/small_*: their recipes step and they answer, at small sizes of the configs that the Hub has of their parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.hub_cache import PUBLISHED, TOKENIZER, offline_cache, put_published
from tests.unit.modeling.conftest import grounded_sample, make_image
from tests.unit.modeling.small_segmenters import sizes
from transformers import AutoTokenizer

from ullava.batching.collate import Collator
from ullava.config.load import load_config
from ullava.config.schema import LanguageConfig, ModelConfig, PartConfig, TrainRecipe
from ullava.inference.predictor import Predictor
from ullava.modeling.construction.build import build_model
from ullava.modeling.construction.outline import outline
from ullava.resources import find
from ullava.structures import Turn
from ullava.training.optim.lora import attach_adapters
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage

PRESETS = ["small_135", "small_600"]
EDGE = "small_135_edge"
SMALL_LANGUAGE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 512,
}  # fmt: skip
SMALL_TOWER = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 64,
}  # fmt: skip
MILLIONS: dict[str, dict[str, float]] = {
    "small_135": {"language model": 134.5, "vision tower": 85.8, "mask head (SAM)": 31.9},
    "small_600": {"language model": 596.0, "vision tower": 86.1, "mask head (SAM)": 39.9},
    EDGE: {"language model": 134.5, "vision tower": 85.8, "mask head (SAM)": 9.6},
}
"""As their cards say."""


def preset(name: str) -> tuple[ModelConfig, Path]:
    path = find("models", name)
    return load_config(ModelConfig, path), path.parent


def recipe(name: str) -> TrainRecipe:
    return load_config(TrainRecipe, find("configs", f"train/{name}.yaml"))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer with the ends of turns that the parts' own have."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(str(TOKENIZER))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(folder)
    return str(folder)


def reduced(name: str, words: str) -> tuple[Any, Any]:
    """Model and processor of a preset on random weights: kinds and choices as they are, sizes small."""
    config, folder = preset(name)
    language, tower = PUBLISHED[config.language.path], PUBLISHED[config.vision.tower.path]["vision_config"]
    head_dim = {"head_dim": 8} if "head_dim" in language else {}
    mask = replace(config.mask, **{config.mask.kind: PartConfig(config=sizes(config.mask.kind))})
    vision = replace(config.vision, tower=PartConfig(config={**tower, **SMALL_TOWER, **config.vision.tower.config}))
    torch.manual_seed(0)
    small = LanguageConfig(config={**language, **SMALL_LANGUAGE, **head_dim})
    return build_model(replace(config, language=small, vision=vision, mask=mask, tokenizer=words), folder)


def step(model: Any, processor: Any, stage: TrainRecipe, sample: Any) -> set[str]:
    """One step of ``stage``; return the names of what moved."""
    if stage.lora is not None:
        attach_adapters(model.core.adapted()[1], stage.lora, "recipe")
    loss = stage.loss
    assert loss is not None
    plan = apply_stage(
        model,
        stage.stage,
        lora=stage.lora is not None,
        quality_trains=loss.iou_score > 0,
        presence_trains=loss.presence > 0,
        parts=stage.parts,
    )
    model.train()
    plan.set_frozen_to_eval()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    batch = Collator(processor.tokenizer.pad_token_id)([processor.encode(sample, [make_image(1, 40, 56)])])
    total = GroundingObjective(loss, processor.masks)(model(**batch.inputs.as_kwargs()), batch.targets).total
    total.backward()
    optimizer.step()
    model.eval()
    assert bool(torch.isfinite(total))
    return {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("name", [*PRESETS, EDGE])
def test_both_stages_step_and_the_model_answers(name: str, words: str) -> None:
    if name == EDGE:
        pytest.importorskip("timm", reason="EdgeTAM's encoder is timm's RepViT")
    model, processor = reduced(name, words)
    first, second = (recipe(f"{name.removesuffix('_edge')}_{number}") for number in (1, 2))
    assert (first.model, second.model) == (name.removesuffix("_edge"),) * 2 and first.init == "scratch"
    assert second.init == f"runs/{first.model}_1/model" and first.training["bf16"] and second.training["bf16"]
    caption = replace(grounded_sample("1"), turns=(Turn("<image>What is there?", "A thing."),), task="caption")
    moved = step(model, processor, first, caption)
    assert any("projector" in part for part in moved) and not any(part.startswith("mask_head.") for part in moved)

    moved = step(model, processor, second, grounded_sample("1", 2))
    heads = ("mask_head.projector.", "mask_head.sam.mask_decoder.", "box_head.")
    assert all(any(part.startswith(head) for part in moved) for head in heads)
    assert any("obj_score" in part for part in moved) and any("iou_prediction_head" in part for part in moved)
    assert any(".lora_" in part for part in moved) == (second.lora is not None)
    assert not any(part.startswith("mask_head.sam.vision_encoder.") or "vision.tower." in part for part in moved)

    predictor = Predictor(model, processor)
    answer = predictor.answer(make_image(2, 50, 30), "Segment the thing.", max_new_tokens=4)
    assert isinstance(answer.text, str)


@pytest.mark.parametrize("name", MILLIONS)
def test_true_sizes_are_those_of_the_cards(name: str, tmp_path: Path) -> None:
    if name == EDGE:
        pytest.importorskip("timm", reason="EdgeTAM's encoder is timm's RepViT")
    put_published(tmp_path / "cache", tmp_path / "work")
    config, folder = preset(name)
    with offline_cache(tmp_path / "cache"):
        parts = outline(config, folder).parts
    assert {part: round(parts[part] / 1e6, 1) for part in MILLIONS[name]} == MILLIONS[name]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Never trained here" in card
    assert all(f"{millions} M" in card for millions in MILLIONS[name].values())
    assert all(str(part.path) in card for part in (config.language, config.vision.tower, config.mask.part))
