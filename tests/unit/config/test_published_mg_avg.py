"""The recipes of MG-LLaVA and AVG-LLaVA say what their authors published (arXiv 2406.17770 and 2410.02745)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ullava.config.load import load_config
from ullava.config.schema import ModelConfig, TrainRecipe

ROOT = Path(__file__).resolve().parents[3]
DEVICES = 8
COMMON: dict[str, Any] = {
    "num_train_epochs": 1, "lr_scheduler_type": "cosine", "warmup_steps": 0.03, "weight_decay": 0.0,
    "optim": "adamw_torch",
}  # fmt: skip
MG: dict[str, Any] = COMMON | {
    "adam_beta1": 0.9, "adam_beta2": 0.999, "max_grad_norm": 1.0, "fp16": True,
    "deepspeed": "configs/deepspeed/fp16_zero2.json",
}  # fmt: skip
AVG: dict[str, Any] = COMMON | {"bf16": True}
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "mg_pt": (MG | {"learning_rate": 1e-3}, 256),
    "mg_sft": (MG | {"learning_rate": 2e-5}, 128),
    "avg_s1": (AVG | {"learning_rate": 1e-3}, 256),
    "avg_s2": (AVG | {"learning_rate": 2e-5}, 128),
    "avg_s3_multi": (AVG | {"learning_rate": 1e-5, "deepspeed": "configs/deepspeed/zero3.json"}, 128),
    "avg_s4_rglf": (AVG | {"learning_rate": 1e-3}, 128),
}
NO_HEADS = {"SAM mask decoder": False, "mask projector": False, "box head": False}
STAGES: dict[str, tuple[str, dict[str, bool], str, dict[str, Any]]] = {
    "mg_pt": ("align", {}, "one", {}),
    "mg_sft": ("ground", NO_HEADS, "one", {}),
    "avg_s1": ("align", {}, "one", {"granularity": 576}),
    "avg_s2": ("ground", {"vision tower": True, **NO_HEADS}, "one", {"granularity": 576}),
    "avg_s3_multi": ("ground", NO_HEADS, "every", {"granularity": None}),
    "avg_s4_rglf": (
        "align", {"vision projector": False, "special-token rows": False, "vision router": True}, "rank", {},
    ),
}  # fmt: skip
BEFORE = {"mg_sft": "mg_pt", "avg_s2": "avg_s1", "avg_s3_multi": "avg_s2", "avg_s4_rglf": "avg_s3_multi"}


def recipe(name: str) -> TrainRecipe:
    return load_config(TrainRecipe, ROOT / "configs" / "train" / f"{name}.yaml")


@pytest.mark.parametrize("name", PUBLISHED)
def test_schedule_batch_and_precision(name: str) -> None:
    training, (expected, batch) = recipe(name).training, PUBLISHED[name]
    assert {key: training[key] for key in expected} == expected
    assert training["per_device_train_batch_size"] * training["gradient_accumulation_steps"] * DEVICES == batch


def test_batches_of_each_device() -> None:
    shapes = {
        name: (training["per_device_train_batch_size"], training["gradient_accumulation_steps"])
        for name in ("mg_pt", "mg_sft", "avg_s3_multi", "avg_s4_rglf")
        for training in [recipe(name).training]
    }
    assert shapes == {"mg_pt": (32, 1), "mg_sft": (16, 1), "avg_s3_multi": (4, 4), "avg_s4_rglf": (8, 2)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_trains_and_how(name: str) -> None:
    found = recipe(name)
    assert (found.stage, found.parts, found.passes, found.vision) == STAGES[name]
    assert found.init == (f"runs/{BEFORE[name]}/model" if name in BEFORE else "scratch")
    assert found.loss is not None and found.lora is None
    assert found.group_by_modality_length
    if name == "avg_s4_rglf":
        assert (found.loss.ce, found.loss.aux) == (0.0, {"rglf_ce": 0.1, "rglf_rank": 1.0})
    else:
        assert (found.loss.ce, found.loss.aux) == (1.0, {})


def test_data() -> None:
    assert set(recipe("mg_pt").dataset) == {"llava_pretrain", "allava_laion", "allava_vflan"}
    small = {"sharegpt4v", "docvqa", "dvqa", "ai2d"}
    second = recipe("mg_sft").dataset
    assert set(second) == {"llava_mix665k", "allava_laion", "allava_vflan"} | small
    assert sum(second[name].limit or 0 for name in small) == 25_000
    assert all(entry.boxes for entry in (*second.values(), *recipe("mg_pt").dataset.values()))
    third, fourth = recipe("avg_s3_multi").dataset, recipe("avg_s4_rglf").dataset
    assert third == fourth and set(third) == {
        "sharegpt4v_mix665k", "allava_vflan", "docvqa", "synthdog_en", "chartqa", "dvqa", "ai2d", "geoqa_plus",
    }  # fmt: skip
    assert not any(entry.boxes for entry in third.values())


def test_models() -> None:
    mg, avg = (
        load_config(ModelConfig, ROOT / "models" / name / "model.yaml") for name in ("mg_llava_7b", "avg_llava_7b")
    )
    for config in (mg, avg):
        assert (config.vision.vision_feature_layer, config.vision.projector) == (-2, "mlp2x")
    assert mg.vision.mg is not None
    assert (mg.vision.mg.fusion, mg.vision.mg.pooling, mg.vision.mg.max_boxes) == ("gate", "pyramid", 100)
    assert (mg.text.template, mg.text.system, mg.text.max_length) == ("vicuna_lines", "", 1472 + 576 + 100)
    settings = avg.vision.settings()
    assert (settings.levels, settings.text_slots, settings.heads, settings.dropout) == ([], 32, 8, 0.1)
    assert settings.image_grid_pinpoints == [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]]
    assert (avg.text.template, avg.text.max_length) == ("vicuna_v1", 4096)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_small_twin_differs_in_size_alone(name: str) -> None:
    full, twin = recipe(name), recipe(f"smoke/tiny_{name}")
    for key in ("stage", "reinit_heads", "lora", "parts", "loss", "optimizer", "passes", "group_by_modality_length"):
        assert getattr(full, key) == getattr(twin, key), key
    assert {key: value and 64 for key, value in full.vision.items()} == twin.vision
    assert twin.init == (f"runs/tiny_{BEFORE[name]}/model" if name in BEFORE else "scratch")
    sizes = {
        "per_device_train_batch_size", "num_train_epochs", "max_steps", "dataloader_num_workers", "deepspeed",
        "save_strategy", "save_steps", "save_total_limit", "fp16", "bf16",
    }  # fmt: skip
    assert {k: v for k, v in full.training.items() if k not in sizes} == {
        k: v for k, v in twin.training.items() if k not in sizes
    }
