"""The system of a recipe and a batch of its size, made of sizes alone: only what describes the parts is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ullava.batching.collate import Collator
from ullava.config.load import load_config
from ullava.config.quantization import QUANTIZATIONS
from ullava.config.schema import LossConfig, ModelConfig, TrainRecipe
from ullava.config.site import Site
from ullava.errors import ConfigError
from ullava.examples import Batch, Example, ModelInputs, mapped
from ullava.inference.load import names_saved_model, weights_folder
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.construction.build import build_processor, set_attention
from ullava.modeling.construction.outline import describe
from ullava.modeling.construction.saved_folder import read_saved_config, read_saved_processor
from ullava.modeling.construction.stage_settings import change_conversation, change_vision
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.resources import find
from ullava.structures import Region, Sample, Turn
from ullava.text.answers import grounded_answer
from ullava.training.memory.packed import PackedLinear
from ullava.training.optim.base_dtype import hold_frozen
from ullava.training.optim.lora import attach_adapters
from ullava.training.optim.stages import Stage, TrainablePlan, apply_stage

IMAGE_HW = (480, 640)
"""Height and width of the images of the batch: those of COCO, of which most of the data is."""
QUIET = {"flash_attention_2": "sdpa"}
"""A kernel that may not be installed here -> one that holds as much."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A system on tensors of ``fake``, ready for a step."""

    model: UllavaForConditionalGeneration
    processor: Any
    plan: TrainablePlan
    loss: LossConfig
    fake: FakeTensorMode


def make_subject(recipe: TrainRecipe, recipe_path: Path, whole_dtype: torch.dtype | None) -> Subject:
    """Build what ``recipe`` trains, on fake tensors of a CPU. ``whole_dtype``: the type of every weight, where a
    framework wants one.

    The heads are those of the model, whatever ``reinit_heads`` makes afresh. Raises UserError as training does.
    """
    settings, processor = _described(recipe, recipe_path)
    set_attention(settings, QUIET.get(recipe.attn_implementation, recipe.attn_implementation))
    loss = recipe.loss or LossConfig()
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = UllavaForConditionalGeneration(settings)
        if recipe.vision:
            change_vision(model, processor, recipe.vision, f"{recipe_path}: vision")
        if recipe.conversation is not None:
            change_conversation(model, processor, recipe.conversation)
        if recipe.lora is not None:
            attach_adapters(model.core.adapted()[1], recipe.lora, str(recipe_path))
        if whole_dtype is not None:
            model.to(whole_dtype)
    chosen: dict[str, Any] = {
        "lora": recipe.lora is not None,
        "quality_trains": loss.iou_score > 0,
        "parts": recipe.parts,
    }
    chosen["presence_trains"] = loss.presence > 0
    if whole_dtype is None and recipe.base_dtype != "float32":
        apply_stage(model, recipe.stage, **chosen)
        packed = recipe.base_dtype in QUANTIZATIONS
        hold_frozen(model, recipe.base_dtype, partial(PackedLinear, kind=recipe.base_dtype) if packed else None)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    _take_fakes(model, fake)
    plan = apply_stage(model, recipe.stage, **chosen)
    model.train()
    plan.set_frozen_to_eval()
    return Subject(model, processor, plan, loss, fake)


def _take_fakes(model: nn.Module, fake: FakeTensorMode) -> None:
    """Put fake tensors of a CPU in the place of those on the meta device, which mixed precision would not touch."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, value in [*module._parameters.items(), *module._buffers.items()]:
            if value is None:
                continue
            if id(value) not in made:
                with fake:
                    plain = torch.empty(value.shape, dtype=value.dtype, device="cpu")
                    made[id(value)] = _parameter(plain) if isinstance(value, nn.Parameter) else plain
            table: dict[str, Any] = module._parameters if name in module._parameters else module._buffers
            table[name] = made[id(value)]


def _parameter(plain: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(plain, requires_grad=plain.is_floating_point())


def _described(recipe: TrainRecipe, recipe_path: Path) -> tuple[UllavaConfig, Any]:
    """The config of the recipe's model and its processor."""
    if recipe.system is None and names_saved_model(recipe.model):
        folder = weights_folder(recipe.model)
        config = read_saved_config(folder)
        return config, read_saved_processor(folder, config)
    if recipe.system is not None:
        system = describe(recipe.system, Path("."), Site(recipe_path, "system"))
    else:
        path = find("models", recipe.model)
        system = describe(load_config(ModelConfig, path), path.parent)
    processor = build_processor(system.config, system.settings, system.tokenizer, system.chat_template, system.native)
    return system.settings, processor


def make_batch(subject: Subject, rows: int, length: int | None, supervised: float) -> tuple[Batch, int]:
    """``sample_batch`` of the subject's stage without memory: pixels and masks are fake."""
    batch, tokens = sample_batch(subject.processor, subject.plan.stage, rows, length, supervised)
    inputs, targets = batch.usable()

    def without_memory(tensor: torch.Tensor) -> torch.Tensor:
        return subject.fake.from_tensor(tensor) if tensor.dtype in (torch.uint8, torch.float32) else tensor

    faked: ModelInputs = mapped(inputs, without_memory)
    masks = [subject.fake.from_tensor(mask) for mask in targets.masks]
    return Batch(inputs=faked, targets=replace(targets, masks=masks)), tokens


def sample_batch(processor: Any, stage: Stage, rows: int, length: int | None, supervised: float) -> tuple[Batch, int]:
    """A batch of ``rows`` rows with an image each, and how many tokens a row has, visual ones included.

    ``length``: how many those are to be; None = as many as the model takes at most. ``supervised``: the share of the
    words added for that which is supervised. In a stage that trains heads every row asks for one mask and one box.

    Raises ConfigError for fewer tokens than such a row needs.
    """
    first = processor.encode(_sample(stage != "align"), [np.zeros((*IMAGE_HW, 3), np.uint8)])
    open_places = sum(image.count.high - 1 for image in first.images if not image.count.exact)
    wanted = (length or processor.max_length) - open_places
    if wanted < len(first.input_ids):
        raise ConfigError(f"a row of one image needs {len(first.input_ids) + open_places} tokens, not {length}")
    row = _of_length(first, wanted, supervised)
    examples = [
        replace(row, images=tuple(replace(image, key=str(number)) for image in row.images)) for number in range(rows)
    ]
    return Collator(processor.tokenizer.pad_token_id)(examples), wanted + open_places


def _sample(grounded: bool) -> Sample:
    """One turn about one image; ``grounded``: its answer points at one thing by mask and box."""
    if not grounded:
        turn = Turn("<image>What is there?", "A thing.")
        return Sample("0", "memory", "caption", (Path("0"),), (turn,))
    mask = np.zeros(IMAGE_HW, dtype=np.bool_)
    mask[100:200, 100:300] = True
    region = Region("thing", mask, (100.0, 100.0, 300.0, 200.0))
    turn = Turn("<image>Where is the thing?", grounded_answer([region]), (region,))
    return Sample("0", "memory", "res", (Path("0"),), (turn,))


def _of_length(example: Example, wanted: int, share: float) -> Example:
    """The row with its last word repeated up to ``wanted`` places; ``share`` of the added ones is supervised."""
    more = wanted - len(example.input_ids)
    words = np.full(more, example.input_ids[-1], dtype=np.int64)
    labels = words.copy()
    labels[: more - round(more * share)] = -100
    changes: Mapping[str, Any] = {
        "input_ids": np.concatenate([example.input_ids, words]),
        "labels": np.concatenate([example.labels, labels]),
    }
    return replace(example, **changes)
