"""models/small_vlm and models/qwen3vl_4b: their recipes step and they answer, at small sizes of the makers' configs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.hub_cache import PUBLISHED, offline_cache, put_in_cache
from tests.unit.modeling.conftest import grounded_sample, make_image
from tests.unit.modeling.native_models import NATIVES, needed_packages, write_processor
from tests.unit.modeling.small_segmenters import sizes
from tests.unit.modeling.test_small_presets import preset, recipe, step
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from ullava.config.schema import CoreConfig, PartConfig
from ullava.errors import WeightsError
from ullava.inference.predictor import Predictor
from ullava.modeling.construction.build import build_model
from ullava.modeling.construction.outline import outline
from ullava.modeling.loading.strict_loading import read_part

FAMILIES = {"small_vlm": "qwen3_5", "qwen3vl_4b": "qwen3_vl"}
MILLIONS: dict[str, dict[str, float]] = {
    "small_vlm": {"language model": 752.4, "vision encoder": 100.6},
    "qwen3vl_4b": {"language model": 4022.5, "vision encoder": 415.3},
}
"""As their cards say: what the makers' config gives."""


@pytest.mark.parametrize("name", FAMILIES)
def test_true_sizes_are_those_of_the_cards(name: str, tmp_path: Path) -> None:
    config, folder = preset(name)
    published = dict(PUBLISHED[str(config.core.path)])
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**published))
    assert type(network).__name__ in (folder / "README.md").read_text(encoding="utf-8")
    told: Counter[str] = Counter()
    for part, value in network.named_parameters():
        told["vision encoder" if ".visual." in part else "language model"] += value.numel()
    assert {part: round(size / 1e6, 1) for part, size in told.items()} == MILLIONS[name]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Never trained here" in card and "Apache-2.0" in card
    assert all(f"{millions} M" in card for millions in MILLIONS[name].values())
    assert all(str(part.path) in card for part in (config.core, config.mask.part))
    trained = recipe(name)
    assert trained.model == name and trained.init == "scratch" and trained.training["bf16"]


def reduced(name: str, folder: Path) -> tuple[Any, Any]:
    """Model and processor of a preset on random weights: kinds and choices as they are, sizes small."""
    config, at = preset(name)
    published, small = PUBLISHED[str(config.core.path)], NATIVES[FAMILIES[name]].config
    parts = {key: {**published[key], **small[key]} for key in ("text_config", "vision_config")}
    core = CoreConfig(
        kind="native", config={**published, **parts}, processor=str(write_processor(FAMILIES[name], folder / "p"))
    )
    mask = replace(config.mask, **{config.mask.kind: PartConfig(config=sizes(config.mask.kind))})
    torch.manual_seed(0)
    return build_model(replace(config, core=core, mask=mask), at)


@pytest.mark.parametrize("name", FAMILIES)
def test_its_stage_steps_and_the_model_answers(name: str, tmp_path: Path) -> None:
    needed_packages(FAMILIES[name])
    model, processor = reduced(name, tmp_path)
    moved = step(model, processor, recipe(name), grounded_sample("1", 2))
    heads = ("mask_head.projector.", "mask_head.sam.mask_decoder.", "box_head.")
    assert all(any(part.startswith(head) for part in moved) for head in heads)
    adapted = {part.split(".")[-4] for part in moved if ".lora_B." in part}
    assert adapted == set(recipe(name).lora.target), "every matrix that the recipe names has an adapter"
    assert not any(part.startswith(("mask_head.sam.vision_encoder.", "native.model.visual.")) for part in moved)
    answer = Predictor(model, processor).answer(make_image(2, 50, 30), "Segment the thing.", max_new_tokens=4)
    assert isinstance(answer.text, str)


@pytest.mark.parametrize("name", FAMILIES)
def test_its_outline_needs_no_weights(name: str, tmp_path: Path) -> None:
    needed_packages(FAMILIES[name])
    config, folder = preset(name)
    theirs = write_processor(
        FAMILIES[name], tmp_path / "theirs", patch_size=16, min_pixels=65536, max_pixels=16777216
    )  # as in the published files
    published = AutoConfig.for_model(**PUBLISHED[str(config.core.path)])
    processor = AutoProcessor.from_pretrained(str(theirs))  # of our tokenizer, so its signs have other ids
    published.update({"image_token_id": processor.image_token_id, "video_token_id": processor.video_token_id})
    published.save_pretrained(str(theirs))
    put_in_cache(tmp_path / "cache", str(config.core.path), theirs)
    masks = tmp_path / "masks"
    masks.mkdir()
    AutoConfig.for_model(**PUBLISHED[str(config.mask.part.path)]).save_pretrained(str(masks))
    put_in_cache(tmp_path / "cache", str(config.mask.part.path), masks)
    with offline_cache(tmp_path / "cache"):
        told = outline(config, folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{round(told.parts['mask head (SAM)'] / 1e6, 1)} M" in card
    assert f"{told.images[(640, 480)].low} visual tokens" in card
    assert told.video is not None and told.frames == 8


def test_weights_that_only_guess_ahead_are_left_out(tmp_path: Path) -> None:
    """Qwen3.5's files hold a head for several tokens at once, which transformers' class does not have."""
    small = NATIVES["qwen3_5"].config
    text = {**small["text_config"], "vocab_size": 64}
    network = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**{**small, "text_config": text}))
    network.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    save_file({**weights, "mtp.fc.weight": torch.zeros(2, 2)}, file, metadata={"format": "pt"})
    assert read_part(AutoModelForImageTextToText, tmp_path).keys() == network.state_dict().keys()
    save_file({**weights, "mpt.fc.weight": torch.zeros(2, 2)}, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="unexpected weight mpt.fc.weight"):
        read_part(AutoModelForImageTextToText, tmp_path)
