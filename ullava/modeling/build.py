"""Builds a model afresh from ``model.yaml``, from pretrained parts or from sizes, together with its processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    ConvNextConfig,
    PreTrainedConfig,
    SamConfig,
    SamModel,
)

from ullava.config.schema import BoxHeadConfig, HeadsConfig, ModelConfig, PartConfig
from ullava.errors import ConfigError, UserError, did_you_mean
from ullava.hub import find_folder, source_of
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.heads.box_table import box_settings, load_box_parts
from ullava.modeling.heads.detector import DETECTORS
from ullava.modeling.positions import start_sam_positions
from ullava.modeling.pretrained import read_config, read_tokenizer
from ullava.modeling.processing import UllavaProcessor
from ullava.modeling.strategies import TOWERS, patch_of, pretrained_parts, strategy_settings, word_ids
from ullava.modeling.strict_loading import load_part, read_part
from ullava.modeling.ullava import UllavaForConditionalGeneration
from ullava.text.conversation import CHAT_TEMPLATES, turn_end_ids
from ullava.text.tokens import add_special_tokens, special_token_ids


def build_model(
    config: ModelConfig, folder: Path, *, attention: str = "sdpa"
) -> tuple[UllavaForConditionalGeneration, UllavaProcessor]:
    """Build model and processor. Relative paths of ``config`` start at ``folder`` (that of model.yaml).

    Parts with a ``path`` carry their pretrained weights; everything else is initialised at random (seed it before).
    ``attention`` is the kernel of every part, by transformers' name.
    """
    tokenizer = load_tokenizer(config, folder)
    model_config = to_model_config(config, folder, tokenizer)
    set_attention(model_config, attention)
    model = UllavaForConditionalGeneration(model_config)
    _start_afresh(model, config)
    _load_parts(model, config, folder, len(tokenizer))
    settle_generation(model, tokenizer, CHAT_TEMPLATES[config.text.template])
    processor = build_processor(config, model_config, tokenizer)
    load_box_parts(model, processor, config.box, folder)
    vision = pretrained_parts(config.vision)
    parts = {"language": config.language, "mask.sam": config.mask.sam, "box.detector": config.box.detector}
    model.config.pretrained = hub_sources(parts | {f"vision.{name}": part for name, part in vision.items()}, folder)
    return model, processor


def settle_generation(model: UllavaForConditionalGeneration, tokenizer: Any, chat_template: str | None) -> None:
    """Tell ``generate`` where an answer in this format ends, and the tokenizer's other special tokens."""
    generation = model.generation_config
    generation.eos_token_id = turn_end_ids(tokenizer, chat_template)
    generation.pad_token_id = tokenizer.pad_token_id
    generation.bos_token_id = tokenizer.bos_token_id


def set_attention(config: UllavaConfig, attention: str) -> None:
    """Choose the attention kernel of every part that attends; SAM's decoder has a config two levels down."""
    for part in (config, config.text_config, config.vision_config, config.sam_config):
        part._attn_implementation = "eager" if isinstance(part, ConvNextConfig) else attention
    for part in (config.sam_config.vision_config, config.sam_config.mask_decoder_config):
        part._attn_implementation = attention


def load_tokenizer(config: ModelConfig, folder: Path) -> Any:
    """The tokenizer of ``config.tokenizer`` with our special tokens added."""
    path = find_folder(config.tokenizer, folder, f"{folder / 'model.yaml'}: tokenizer", weights=False)
    tokenizer = read_tokenizer(path)
    if tokenizer.eos_token is None:
        raise UserError(f"{path}: the tokenizer has no end token, so answers could not end")
    add_special_tokens(tokenizer)
    return tokenizer


def build_processor(config: ModelConfig | HeadsConfig, model_config: UllavaConfig, tokenizer: Any) -> UllavaProcessor:
    """The processor that belongs to a model of ``model_config``; sizes come from there, never from YAML twice."""
    return UllavaProcessor(
        tokenizer=tokenizer,
        **processor_facts(model_config),
        box=box_settings(config.box, model_config),
        system=config.text.system,
        max_length=config.text.max_length,
        as_released=config.text.as_released,
        answer=config.text.answer,
        chat_template=CHAT_TEMPLATES[config.text.template],
    )


def processor_facts(config: UllavaConfig) -> dict[str, Any]:
    """The arguments of UllavaProcessor that the model's config decides."""
    return {
        "strategy": config.strategy,
        "image_side": config.vision_config.image_size,
        "patch": patch_of(config),
        "aspect": config.aspect,
        "merge": config.merge,
        "settings": config.vision_settings,
        "sam_side": config.sam_side,
        "video_frames": config.video_frames,
        "box_frame": config.box_frame,
        "mask_score": config.mask_score,
    }


def to_model_config(config: ModelConfig, folder: Path, tokenizer: Any) -> UllavaConfig:
    """``model.yaml`` and the tokenizer -> UllavaConfig."""
    where = folder / "model.yaml"
    text = part_config(config.language, folder, f"{where}: language", None)
    if not config.language.path:
        text.vocab_size = len(tokenizer)
    text.pad_token_id, text.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    text.bos_token_id = tokenizer.bos_token_id
    fields: dict[str, Any] = {**box_fields(config.box, folder, f"{where}: box"), **special_token_ids(tokenizer)}
    settings = strategy_settings(
        config.vision, lambda part, key: part_config(part, folder, f"{where}: vision.{key}", None)
    )
    return UllavaConfig(
        text_config=text,
        vision_config=part_config(
            config.vision.tower, folder, f"{where}: vision.tower", TOWERS[config.vision.strategy]
        ),
        sam_config=part_config(config.mask.sam, folder, f"{where}: mask.sam", SamConfig),
        strategy=config.vision.strategy,
        hidden_layer=config.vision.hidden_layer,
        projector=config.vision.projector,
        aspect=config.vision.aspect,
        merge=config.vision.merge,
        vision_settings=settings | word_ids(config.vision.strategy, settings, tokenizer),
        head_state=config.head_state,
        mask_score=config.mask.score,
        max_text_length=config.text.max_length,
        marker_gradient_only=config.marker_gradient_only,
        video_frames=config.vision.video_frames,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **fields,
    )


def box_fields(box: BoxHeadConfig, folder: Path, where: str) -> dict[str, Any]:
    """Return what ``UllavaConfig`` holds of a box head. Raises ConfigError as ``part_config``, for ``where``."""
    detector = None
    if box.detector is not None:
        detector = part_config(box.detector, folder, f"{where}.detector", None)
        if detector.model_type not in DETECTORS:
            known = ", ".join(DETECTORS)
            raise ConfigError(f"{where}.detector: '{detector.model_type}' is no detector of boxes; known: {known}")
    return {
        "box_kind": box.kind,
        "detector_config": detector,
        "box_width": box.width,
        "box_frame": box.frame,
        "box_sigmoid": box.sigmoid,
    }


def part_config(part: PartConfig, folder: Path, where: str, kind: type[PreTrainedConfig] | None) -> PreTrainedConfig:
    """Return the transformers config of one part; ``kind`` None reads it from ``model_type``.

    With a path, ``part.config`` changes single values of what lies there.

    Raises ConfigError, which names ``where``, for a path that is not there and for keys that the kind does not have.
    """
    if part.path:
        path = find_folder(part.path, folder, f"{where}.path", revision=part.revision, weights=False)
        found = read_config(path, kind)
        if not part.config:
            return found
        _refuse_unknown(part.config, type(found), f"{where}.config")
        return type(found)(**{**found.to_dict(), **part.config})
    table = dict(part.config)
    if kind is None:
        name = table.pop("model_type", None)
        if name not in CONFIG_MAPPING:
            raise ConfigError(f"{where}.config.model_type: unknown '{name}'{did_you_mean(str(name), CONFIG_MAPPING)}")
        kind = CONFIG_MAPPING[name]
    _refuse_unknown(table, kind, f"{where}.config")
    return kind(**table)


def _refuse_unknown(table: dict[str, Any], kind: type[PreTrainedConfig], where: str) -> None:
    """Hugging Face configs keep any key they are given; a misspelt one must not pass, nor one in a table within."""
    problems = _unknown_keys(table, kind, where)
    if problems:
        raise ConfigError(problems)


def _unknown_keys(table: dict[str, Any], kind: type[PreTrainedConfig], where: str) -> list[str]:
    known = set(kind().to_dict()) | {"dtype", "attn_implementation"}
    problems = [f"{where}.{key}: unknown key{did_you_mean(key, known)}" for key in table if key not in known]
    for key, value in table.items():
        nested = getattr(kind(), key, None)
        if not isinstance(value, dict) or not isinstance(nested, PreTrainedConfig):
            continue
        name = value.get("model_type", nested.model_type)
        if name != nested.model_type and name not in CONFIG_MAPPING:
            problems.append(f"{where}.{key}.model_type: unknown '{name}'{did_you_mean(str(name), CONFIG_MAPPING)}")
            continue
        # Parts of SAM have no name of their own in transformers 5.17.
        inner = type(nested) if name == nested.model_type else CONFIG_MAPPING[name]
        problems += _unknown_keys(value, inner, f"{where}.{key}")
    return problems


def _start_afresh(model: UllavaForConditionalGeneration, config: ModelConfig) -> None:
    """Starting values of parts without pretrained weights, where transformers' own are meant for large models.

    A word table of its own (not tied to the language head) starts at the size that its RMS norm would give it: words
    then weigh as much as what the first layers add to them (models/tiny/README.md has the effect).
    """
    model.vision.start_afresh(frozenset(pretrained_parts(config.vision)))
    if not config.mask.sam.path:
        start_sam_positions(model)
    if not config.language.path and not model.config.text_config.tie_word_embeddings:
        table: Any = model.get_input_embeddings()
        torch.nn.init.normal_(table.weight)


def _load_parts(model: UllavaForConditionalGeneration, config: ModelConfig, folder: Path, vocabulary: int) -> None:
    """Move pretrained weights of the parts that have a path into the model, and grow the vocabulary to fit."""
    where = folder / "model.yaml"
    if config.language.path:
        language = weights_of(config.language, folder, f"{where}: language")
        load_part(model.language_model, read_part(AutoModelForCausalLM, language), language)
        if vocabulary > model.config.text_config.vocab_size:
            _grow_vocabulary(model, vocabulary)
    vision = pretrained_parts(config.vision)
    model.vision.load_pretrained(
        {name: weights_of(part, folder, f"{where}: vision.{name}") for name, part in vision.items()}
    )
    if config.mask.sam.path:
        sam = weights_of(config.mask.sam, folder, f"{where}: mask.sam")
        load_part(model.mask_head.sam, read_part(SamModel, sam), sam)
    model.tie_weights()


def hub_sources(parts: Mapping[str, PartConfig | None], folder: Path) -> dict[str, dict[str, str]]:
    """Return which of ``parts`` (key of model.yaml -> part) came from the Hub, for ``UllavaConfig.pretrained``."""
    named = {key: part for key, part in parts.items() if part is not None and part.path}
    sources = {key: source_of(weights_of(part, folder, key)) for key, part in named.items()}
    return {key: source for key, source in sources.items() if source is not None}


def weights_of(part: PartConfig, folder: Path, where: str) -> Path:
    """The folder with the weights of a part that has a ``path``; see ``ullava.hub``."""
    return find_folder(str(part.path), folder, f"{where}.path", revision=part.revision)


def _grow_vocabulary(model: UllavaForConditionalGeneration, vocabulary: int) -> None:
    """Add rows for new tokens, each the mean of the old rows (spec/ullava.md 1.6), in and out."""
    language = model.language_model
    old = language.get_input_embeddings().weight.shape[0]
    language.resize_token_embeddings(vocabulary, mean_resizing=False)
    with torch.no_grad():
        for table in {language.get_input_embeddings(), language.get_output_embeddings()}:
            table.weight[old:] = table.weight[:old].float().mean(dim=0).to(table.weight.dtype)
    model.config.text_config.vocab_size = vocabulary
