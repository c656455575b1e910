"""ConvLLaVA's recipes say what was published (arXiv 2405.15738): rates, batches, parts, at all sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ullava.config.load import load_config
from ullava.config.schema import ModelConfig, TrainRecipe

TRAIN = Path(__file__).resolve().parents[3] / "configs" / "train"
MODELS = TRAIN.parents[1] / "models"
DEVICES = 8
COMMON = {
    "num_train_epochs": 1, "optim": "adamw_torch", "lr_scheduler_type": "cosine", "warmup_steps": 0.03,
    "weight_decay": 0.0, "bf16": True, "tf32": True, "gradient_checkpointing": True,
}  # fmt: skip
LANGUAGE = {"language model", "language head"}
STAGES: dict[str, dict[str, Any]] = {
    "conv_s1": {"rate": 3e-4, "batch": 256, "zero": 2, "parts": {"vision stage 5"}},
    "conv_s2": {"rate": 2e-5, "batch": 256, "zero": 3, "parts": LANGUAGE | {f"vision stage {n}" for n in (3, 4, 5)}},
    "conv_s3": {"rate": 2e-5, "batch": 128, "zero": 3, "parts": LANGUAGE},
}
DATA = {
    "conv_s1": {"sharegpt4v_pt", "sharegpt4v", "allava_caption"},
    "conv_s2": {"sharegpt4v_pt", "sharegpt4v", "allava_caption", "allava_instruct", "vision_flan"},
    "conv_s3": {"llava_mix665k"},
}
TOKENS = {768: 144, 1024: 256, 1536: 576}


def recipe(name: str) -> TrainRecipe:
    return load_config(TrainRecipe, TRAIN / f"{name}.yaml")


def named(stage: str, side: int) -> str:
    return stage if side == 768 else f"{stage}_{side}"


@pytest.mark.parametrize("side", TOKENS)
@pytest.mark.parametrize("stage", STAGES)
def test_published_figures(stage: str, side: int) -> None:
    found, wanted = recipe(named(stage, side)), STAGES[stage]
    training = found.training
    assert {key: training[key] for key in COMMON} == COMMON
    assert training["learning_rate"] == wanted["rate"]
    assert (
        training["per_device_train_batch_size"] * training["gradient_accumulation_steps"] * DEVICES == wanted["batch"]
    )
    assert training["deepspeed"] == f"configs/deepspeed/zero{wanted['zero']}.json"
    assert found.group_by_modality_length
    assert found.stage == "align" and found.parts == dict.fromkeys(wanted["parts"], True)
    assert {entry.dataset or name for name, entry in found.dataset.items()} == DATA[stage]
    assert found.model == named("conv_llava_7b", side)
    number = int(stage[-1])
    assert found.init == ("scratch" if number == 1 else f"runs/{named(f'conv_s{number - 1}', side)}/model")


@pytest.mark.parametrize("side", TOKENS)
def test_models(side: int) -> None:
    config = load_config(ModelConfig, MODELS / named("conv_llava_7b", side) / "model.yaml")
    tower = config.vision.tower.config
    assert (config.vision.strategy, config.vision.projector, config.vision.image_aspect_ratio) == (
        "conv",
        "mlp2x",
        "pad",
    )
    assert tower["image_size"] == side and (side // 64) ** 2 == TOKENS[side]
    assert (tower["num_stages"], tower["depths"]) == (5, [3, 3, 27, 3, 6])
    assert tower["hidden_sizes"] == [192, 384, 768, 1536, 3072]
    assert (config.text.template, config.text.max_length) == ("vicuna_v1", 2048)


@pytest.mark.parametrize("stage", STAGES)
def test_the_small_twin_differs_in_size_alone(stage: str) -> None:
    full, twin = recipe(stage), recipe(f"smoke/tiny_{stage}")
    for key in ("stage", "reinit_heads", "lora", "parts", "loss", "optimizer", "group_by_modality_length"):
        assert getattr(full, key) == getattr(twin, key), key
    assert twin.model == "tiny_conv" and (twin.init == "scratch") == (full.init == "scratch")
    sizes = {
        "per_device_train_batch_size", "num_train_epochs", "max_steps", "dataloader_num_workers", "deepspeed", "tf32",
        "save_strategy", "save_steps", "save_total_limit", "bf16",
    }  # fmt: skip
    assert {k: v for k, v in full.training.items() if k not in sizes} == {
        k: v for k, v in twin.training.items() if k not in sizes
    }
