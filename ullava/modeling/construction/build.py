"""Builds a model afresh from ``model.yaml``, from pretrained parts or from sizes, together with its processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, ConvNextConfig, SamConfig, SamModel

from ullava.config.schema import BoxHeadConfig, HeadsConfig, ModelConfig, PartConfig
from ullava.config.site import Site
from ullava.errors import ConfigError, UserError
from ullava.hub import find_folder, source_of
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.construction.part_configs import LANGUAGES, part_config
from ullava.modeling.construction.trial import try_system, vision_of
from ullava.modeling.heads.box_table import box_settings, load_box_parts
from ullava.modeling.heads.detector import DETECTORS
from ullava.modeling.loading.pretrained import read_tokenizer
from ullava.modeling.loading.strict_loading import load_part, read_part
from ullava.modeling.loading.template_files import chat_template_of
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.positions import start_sam_positions
from ullava.modeling.processing.processor import UllavaProcessor
from ullava.modeling.towers.table import tower_of
from ullava.modeling.vision.strategies import (
    check_tower,
    patch_of,
    pretrained_parts,
    strategy_settings,
    tower_configs,
    word_ids,
)
from ullava.text.conversation import CHAT_TEMPLATES, turn_end_ids
from ullava.text.tokens import add_special_tokens, special_token_ids


def build_model(
    config: ModelConfig, folder: Path, *, attn_implementation: str = "sdpa", site: Site | None = None
) -> tuple[UllavaForConditionalGeneration, UllavaProcessor]:
    """Build model and processor. Relative paths of ``config`` start at ``folder`` (that of model.yaml).

    Parts with a ``path`` carry their pretrained weights; everything else is initialized at random (seed it before).
    ``attention`` is the kernel of every part, by transformers' name. ``site``: where ``config`` was written, for
    messages, where that is no model.yaml in ``folder``.

    Raises UserError for parts that are not there, that no network can be made of, or that this machine cannot hold.
    """
    site = site or Site(folder / "model.yaml")
    chat_template = chat_template_of(config.text, folder, site.of("text"))
    tokenizer = load_tokenizer(config, folder, site)
    model_config = to_model_config(config, folder, tokenizer, site)
    set_attention(model_config, attn_implementation)
    try_system(model_config, site)
    model = UllavaForConditionalGeneration(model_config)
    _init_new_weights(model, config)
    _load_parts(model, config, folder, len(tokenizer), site)
    settle_generation(model, tokenizer, chat_template)
    with vision_of(site):
        processor = build_processor(config, model_config, tokenizer, chat_template)
    load_box_parts(model, processor, config.box, folder)
    parts = {"language": config.language, "mask.sam": config.mask.sam, "box.detector": config.box.detector}
    parts |= {f"vision.{name}": part for name, part in pretrained_parts(config.vision).items()}
    model.config.pretrained = hub_sources(parts, folder, site)
    return model, processor


def settle_generation(model: UllavaForConditionalGeneration, tokenizer: Any, chat_template: str | None) -> None:
    """Tell ``generate`` where an answer in this format ends, and the tokenizer's other special tokens."""
    generation = model.generation_config
    generation.eos_token_id = turn_end_ids(tokenizer, chat_template)
    generation.pad_token_id = tokenizer.pad_token_id
    generation.bos_token_id = tokenizer.bos_token_id


def set_attention(config: UllavaConfig, attn_implementation: str) -> None:
    """Choose the attention kernel of every part that attends; SAM's decoder has a config two levels down."""
    for part in (config, config.text_config, config.sam_config):
        part._attn_implementation = attn_implementation
    config.vision_config._attn_implementation = (
        attn_implementation if tower_of(config.vision_config).attends else "eager"
    )
    for part in (config.sam_config.vision_config, config.sam_config.mask_decoder_config):
        part._attn_implementation = attn_implementation


def load_tokenizer(config: ModelConfig, folder: Path, site: Site | None = None) -> Any:
    """The tokenizer of ``config.tokenizer`` with our special tokens added; ``site``: see ``build_model``."""
    where = (site or Site(folder / "model.yaml")).of("tokenizer")
    path = find_folder(config.tokenizer, folder, str(where), weights=False)
    try:
        tokenizer = read_tokenizer(path)
    except UserError as error:
        raise ConfigError([f"{where}: {problem}" for problem in error.problems]) from error
    if tokenizer.eos_token is None:
        raise UserError(f"{path}: the tokenizer has no end token, so answers could not end")
    add_special_tokens(tokenizer)
    return tokenizer


def build_processor(
    config: ModelConfig | HeadsConfig, model_config: UllavaConfig, tokenizer: Any, chat_template: str | None = None
) -> UllavaProcessor:
    """The processor that belongs to a model of ``model_config``; sizes come from there, never from YAML twice.

    ``chat_template``: what ``chat_template_of`` found; without it ``config.text.template`` is a format of ours.
    """
    return UllavaProcessor(
        tokenizer=tokenizer,
        **processor_facts(model_config),
        box=box_settings(config.box, model_config),
        system=config.text.system,
        max_length=config.text.max_length,
        as_released=config.text.as_released,
        answer=config.text.answer,
        chat_template=chat_template or CHAT_TEMPLATES[config.text.template],
    )


def processor_facts(config: UllavaConfig) -> dict[str, Any]:
    """The arguments of UllavaProcessor that the model's config decides."""
    return {
        "strategy": config.strategy,
        "image_side": config.vision_config.image_size,
        "patch": patch_of(config),
        "image_aspect_ratio": config.image_aspect_ratio,
        "spatial_merge_size": config.spatial_merge_size,
        "settings": config.vision_settings,
        "sam_side": config.sam_side,
        "video_frames": config.video_frames,
        "box_frame": config.box_frame,
        "mask_score": config.mask_score,
        "mask_kind": config.mask_kind,
    }


def to_model_config(config: ModelConfig, folder: Path, tokenizer: Any, site: Site | None = None) -> UllavaConfig:
    """``model.yaml`` and the tokenizer -> UllavaConfig; ``site``: see ``build_model``."""
    where = site or Site(folder / "model.yaml")
    text = part_config(config.language, folder, where.of("language"), among=LANGUAGES)
    if not config.language.path:
        text.vocab_size = len(tokenizer)
    text.pad_token_id, text.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    text.bos_token_id = tokenizer.bos_token_id
    fields: dict[str, Any] = {**box_fields(config.box, folder, where.of("box")), **special_token_ids(tokenizer)}
    settings = strategy_settings(
        config.vision, lambda part, key: part_config(part, folder, where.of(f"vision.{key}"), (ConvNextConfig,))
    )
    tower = part_config(config.vision.tower, folder, where.of("vision.tower"), tower_configs(config.vision.strategy))
    with vision_of(where):
        words = word_ids(config.vision.strategy, settings, tokenizer)
        check_tower(config.vision.strategy, tower)
    return UllavaConfig(
        text_config=text,
        vision_config=tower,
        sam_config=part_config(config.mask.sam, folder, where.of("mask.sam"), (SamConfig,)),
        strategy=config.vision.strategy,
        vision_feature_layer=config.vision.vision_feature_layer,
        projector=config.vision.projector,
        image_aspect_ratio=config.vision.image_aspect_ratio,
        spatial_merge_size=config.vision.spatial_merge_size,
        vision_settings=settings | words,
        head_state=config.head_state,
        mask_score=config.mask.score,
        mask_kind=config.mask.kind,
        max_text_length=config.text.max_length,
        marker_gradient_only=config.marker_gradient_only,
        video_frames=config.vision.video_frames,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **fields,
    )


def box_fields(box: BoxHeadConfig, folder: Path, site: Site) -> dict[str, Any]:
    """Return what ``UllavaConfig`` holds of a box head. Raises ConfigError as ``part_config``, for ``site``."""
    detector = None
    if box.detector is not None:
        detector = part_config(box.detector, folder, site.of("detector"), among=DETECTORS)
    return {
        "box_kind": box.kind,
        "detector_config": detector,
        "box_width": box.width,
        "box_frame": box.frame,
        "box_sigmoid": box.sigmoid,
    }


def _init_new_weights(model: UllavaForConditionalGeneration, config: ModelConfig) -> None:
    """Starting values of parts without pretrained weights, where transformers' own are meant for large models.

    A word table of its own (not tied to the language head) starts at the size that its RMS norm would give it: words
    then weigh as much as what the first layers add to them (models/tiny/README.md has the effect).
    """
    model.vision.init_new_weights(frozenset(pretrained_parts(config.vision)))
    if not config.mask.sam.path:
        start_sam_positions(model)
    if not config.language.path and not model.config.text_config.tie_word_embeddings:
        table: Any = model.get_input_embeddings()
        torch.nn.init.normal_(table.weight)


def _load_parts(
    model: UllavaForConditionalGeneration, config: ModelConfig, folder: Path, vocabulary: int, site: Site
) -> None:
    """Move pretrained weights of the parts that have a path into the model, and grow the vocabulary to fit."""
    if config.language.path:
        language = weights_of(config.language, folder, site.of("language"))
        load_part(model.language_model, read_part(AutoModelForCausalLM, language), language)
        if vocabulary > model.config.text_config.vocab_size:
            _grow_vocabulary(model, vocabulary)
    vision = pretrained_parts(config.vision)
    model.vision.load_pretrained(
        {name: weights_of(part, folder, site.of(f"vision.{name}")) for name, part in vision.items()}
    )
    if config.mask.sam.path:
        sam = weights_of(config.mask.sam, folder, site.of("mask.sam"))
        load_part(cast(Any, model.mask_head).sam, read_part(SamModel, sam), sam)
    model.tie_weights()


def hub_sources(parts: Mapping[str, PartConfig | None], folder: Path, site: Site) -> dict[str, dict[str, str]]:
    """Return which of ``parts`` (key of model.yaml -> part) came from the Hub, for ``UllavaConfig.pretrained``."""
    named = {key: part for key, part in parts.items() if part is not None and part.path}
    sources = {key: source_of(weights_of(part, folder, site.of(key))) for key, part in named.items()}
    return {key: source for key, source in sources.items() if source is not None}


def weights_of(part: PartConfig, folder: Path, site: Site) -> Path:
    """The folder with the weights of a part that has a ``path`` and was written at ``site``; see ``ullava.hub``."""
    return find_folder(str(part.path), folder, str(site.of("path")), revision=part.revision)


def _grow_vocabulary(model: UllavaForConditionalGeneration, vocabulary: int) -> None:
    """Add rows for new tokens, each the mean of the old rows (as in u-LLaVA's released code), in and out."""
    language = model.language_model
    old = language.get_input_embeddings().weight.shape[0]
    language.resize_token_embeddings(vocabulary, mean_resizing=False)
    with torch.no_grad():
        for table in {language.get_input_embeddings(), language.get_output_embeddings()}:
            table.weight[old:] = table.weight[:old].float().mean(dim=0).to(table.weight.dtype)
    model.config.text_config.vocab_size = vocabulary
