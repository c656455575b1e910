"""The recipes at full size say what was published of u-LLaVA's training (its own configs)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ullava.config.load import load_config
from ullava.config.schema import ModelConfig, TrainRecipe

TRAIN = Path(__file__).resolve().parents[3] / "configs" / "train"
COMMON = {
    "gradient_accumulation_steps": 1, "optim": "adamw_torch", "lr_scheduler_type": "cosine", "warmup_steps": 0.03,
    "weight_decay": 0.0, "bf16": True, "dataloader_num_workers": 8, "save_strategy": "steps", "save_steps": 5000,
    "save_total_limit": 1, "logging_steps": 1, "seed": 42, "deepspeed": "configs/deepspeed/bf16_zero2.json",
    "gradient_checkpointing": True,
}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "ullava_core_stage1": {"learning_rate": 2e-3, "per_device_train_batch_size": 48, "num_train_epochs": 1},
    "ullava_stage2": {"learning_rate": 2e-5, "per_device_train_batch_size": 16, "num_train_epochs": 5},
    "ullava_stage2_lora": {"learning_rate": 2e-4, "per_device_train_batch_size": 32, "num_train_epochs": 5},
}
DATASETS = {
    "llava_seg", "refcoco", "refcoco+", "refcocog", "refclef", "ade20k", "cocostuff", "pascal_part", "paco_lvis",
    "msra_10k", "msra_b",
}  # fmt: skip


def recipe(name: str) -> TrainRecipe:
    return load_config(TrainRecipe, TRAIN / f"{name}.yaml")


@pytest.mark.parametrize("name", PUBLISHED)
def test_schedule_and_optimizer(name: str) -> None:
    training = recipe(name).training
    expected = COMMON | PUBLISHED[name]
    assert {key: training[key] for key in expected} == expected


def test_data_and_losses() -> None:
    first, second, lora = (recipe(name) for name in PUBLISHED)
    assert set(first.dataset) == {"llava_cc3m", "tgif"}
    assert set(second.dataset) == set(lora.dataset) == DATASETS
    for ground in (second, lora):
        assert ground.loss is not None
        weights = {
            name: getattr(ground.loss, name) for name in ("ce", "bce", "dice", "l1", "giou", "iou_score", "patch")
        }
        assert weights == {"ce": 1, "bce": 2, "dice": 0.5, "l1": 1, "giou": 1, "iou_score": 0, "patch": 0}
        assert all(entry.portion is None and entry.weight is None for entry in ground.dataset.values())
        assert all(entry.turns == 3 for name, entry in ground.dataset.items() if name != "llava_seg")
        assert ground.eval_protocol == "teacher_forced"


def test_stages_and_adapters() -> None:
    first, second, lora = (recipe(name) for name in PUBLISHED)
    assert (first.stage, first.init, first.lora) == ("align", "scratch", None)
    assert (second.stage, second.reinit_heads, second.lora, second.parts) == ("ground", "all", None, {})
    assert second.init == lora.init == "runs/ullava_core_stage1/model"
    assert lora.lora is not None
    assert (lora.lora.r, lora.lora.alpha, lora.lora.dropout) == (8, 16, 0.05)
    assert lora.lora.target == ["q_proj", "v_proj"]
    assert lora.parts == {"vision projector": False, "language head": True}


def test_models() -> None:
    models = TRAIN.parents[1] / "models"
    core, ground = (load_config(ModelConfig, models / name / "model.yaml") for name in ("ullava_core_7b", "ullava_7b"))
    for config in (core, ground):
        assert (config.vision.vision_feature_layer, config.vision.projector, config.vision.video_frames) == (
            -2,
            "linear",
            8,
        )
        assert config.head_state == "predicting"
    assert (core.text.template, core.text.max_length, core.vision.image_aspect_ratio) == ("simple", 1024, "crop")
    assert (ground.text.template, ground.text.max_length, ground.vision.image_aspect_ratio) == ("vicuna_v1", 512, "pad")
    assert (ground.box.kind, ground.box.width, ground.box.frame, ground.box.sigmoid) == (
        "regression", 256, "padsq", False,
    )  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_small_twin_differs_in_size_alone(name: str) -> None:
    full, twin = recipe(name), recipe(f"smoke/{name.replace('ullava', 'tiny')}")
    for key in ("stage", "reinit_heads", "lora", "parts", "loss", "optimizer", "eval_protocol"):
        assert getattr(full, key) == getattr(twin, key), key
    assert (twin.init == "scratch") == (full.init == "scratch")
    sizes = {
        "per_device_train_batch_size", "num_train_epochs", "max_steps", "dataloader_num_workers", "deepspeed",
        "save_strategy", "save_steps", "save_total_limit", "bf16",
    }  # fmt: skip
    assert {k: v for k, v in full.training.items() if k not in sizes} == {
        k: v for k, v in twin.training.items() if k not in sizes
    }
