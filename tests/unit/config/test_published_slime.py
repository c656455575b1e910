"""The recipes of SliME say what its authors published (arXiv 2406.08487)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ullava.config.load import load_config
from ullava.config.schema import ModelConfig, TrainRecipe

ROOT = Path(__file__).resolve().parents[3]
DEVICES = 8
COMMON: dict[str, Any] = {
    "num_train_epochs": 1, "gradient_accumulation_steps": 1, "lr_scheduler_type": "cosine", "warmup_steps": 0.03,
    "weight_decay": 0.0, "optim": "adamw_torch", "bf16": True, "seed": 3407,
}  # fmt: skip
FIRST = {"learning_rate": 1e-3, "deepspeed": "configs/deepspeed/bf16_zero2.json"}
LAST = {"deepspeed": "configs/deepspeed/zero3.json"}
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "slime_i_a": (FIRST, 256),
    "slime_i_b": (FIRST, 256),
    "slime_ii": (FIRST, 256),
    "slime_iii": (LAST | {"learning_rate": 2e-5}, 128),
    "slime_iii_lora": (LAST | {"learning_rate": 1e-4}, 128),
}
NO_HEADS = {"SAM mask decoder": False, "mask projector": False, "box head": False}
NO_MLP = {"vision projector": False}
WHOLE = {"view": "both", "gate": "learned", "top_p": 0.95}
STAGES: dict[str, tuple[str, dict[str, bool], dict[str, Any], str]] = {
    "slime_i_a": ("align", {}, {"view": "global", "gate": "mlp", "top_p": 1.0}, "plain"),
    "slime_i_b": ("align", NO_MLP, {"view": "global", "gate": "resampler", "top_p": 1.0}, "plain"),
    "slime_ii": ("align", NO_MLP, {"view": "local", "top_p": 1.0}, "plain"),
    "slime_iii": ("ground", NO_HEADS, WHOLE, "vicuna_v1"),
    "slime_iii_lora": ("ground", NO_HEADS, WHOLE, "vicuna_v1"),
}
BEFORE = {"slime_i_b": "slime_i_a", "slime_ii": "slime_i_b", "slime_iii": "slime_ii", "slime_iii_lora": "slime_ii"}
VISION_ENCODER = ("vision projector", "vision gate", "vision resampler a", "vision resampler b")


def recipe(name: str) -> TrainRecipe:
    return load_config(TrainRecipe, ROOT / "configs" / "train" / f"{name}.yaml")


@pytest.mark.parametrize("name", PUBLISHED)
def test_schedule_and_batch(name: str) -> None:
    training, (expected, batch) = recipe(name).training, PUBLISHED[name]
    expected = COMMON | expected
    assert {key: training[key] for key in expected} == expected
    assert training["per_device_train_batch_size"] * DEVICES == batch


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_trains_and_what_it_sees(name: str) -> None:
    found = recipe(name)
    assert (found.stage, found.parts, found.vision, found.conversation) == STAGES[name]
    assert found.init == (f"runs/{BEFORE[name]}/model" if name in BEFORE else "scratch")
    assert found.model == "slime_7b"


def test_adapters_and_their_rates() -> None:
    lora = recipe("slime_iii_lora")
    assert lora.lora is not None and (lora.lora.r, lora.lora.alpha) == (128, 256)
    assert lora.optimizer.learning_rates == dict.fromkeys(VISION_ENCODER, 2e-5)
    assert all(recipe(name).lora is None and not recipe(name).optimizer.learning_rates for name in list(PUBLISHED)[:4])


def test_data() -> None:
    for name in ("slime_i_a", "slime_i_b", "slime_ii"):
        assert set(recipe(name).dataset) == {"llava_pretrain"}
    last = recipe("slime_iii").dataset
    assert last == recipe("slime_iii_lora").dataset
    assert (
        "sharegpt4v_mix665k" in last and len({entry.split for entry in last.values() if entry.dataset == "smr"}) == 11
    )
    assert all(entry.turns == 0 for entry in last.values())


@pytest.mark.parametrize(("name", "template"), [("slime_7b", "vicuna_v1"), ("slime_8b", "llama3")])
def test_models(name: str, template: str) -> None:
    config = load_config(ModelConfig, ROOT / "models" / name / "model.yaml")
    settings = config.vision.settings()
    assert (settings.top_p, settings.temperature, settings.reduce, settings.local_side, settings.heads) == (
        0.95, 1.0, "sum", 12, 8,
    )  # fmt: skip
    assert (config.text.template, config.text.max_length, config.vision.vision_feature_layer) == (template, 2048, -2)
    assert bool(config.text.system) == (name == "slime_7b")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_small_twin_differs_in_size_alone(name: str) -> None:
    full, twin = recipe(name), recipe(f"smoke/tiny_{name}")
    for key in ("stage", "reinit_heads", "lora", "parts", "loss", "optimizer", "vision", "conversation"):
        assert getattr(full, key) == getattr(twin, key), key
    assert twin.init == (f"runs/tiny_{BEFORE[name]}/model" if name in BEFORE else "scratch")
    sizes = {
        "per_device_train_batch_size", "num_train_epochs", "max_steps", "dataloader_num_workers", "deepspeed",
        "save_strategy", "save_steps", "save_total_limit", "bf16",
    }  # fmt: skip
    assert {k: v for k, v in full.training.items() if k not in sizes} == {
        k: v for k, v in twin.training.items() if k not in sizes
    }
