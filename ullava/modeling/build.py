"""Builds a model afresh from ``model.yaml``, from pretrained parts or from sizes, together with its processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, ConvNextConfig, SamConfig, SamModel

from ullava.config.schema import BoxHeadConfig, HeadsConfig, ModelConfig
from ullava.config.site import Site
from ullava.errors import ConfigError, UserError
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.heads.box_table import box_settings, load_box_parts
from ullava.modeling.heads.detector import DETECTORS
from ullava.modeling.part_configs import LANGUAGES, part_config
from ullava.modeling.positions import start_sam_positions
from ullava.modeling.processing import UllavaProcessor
from ullava.modeling.strategies import TOWERS, patch_of, pretrained_paths, strategy_settings, word_ids
from ullava.modeling.trial import try_system, vision_of
from ullava.modeling.ullava import UllavaForConditionalGeneration
from ullava.text.conversation import CHAT_TEMPLATES, turn_end_ids
from ullava.text.stored_tokenizer import open_tokenizer
from ullava.text.tokens import add_special_tokens, special_token_ids


def build_model(
    config: ModelConfig, folder: Path, *, attention: str = "sdpa", site: Site | None = None
) -> tuple[UllavaForConditionalGeneration, UllavaProcessor]:
    """Build model and processor. Relative paths of ``config`` start at ``folder`` (that of model.yaml).

    Parts with a ``path`` carry their pretrained weights; everything else is initialised at random (seed it before).
    ``attention`` is the kernel of every part, by transformers' name. ``site``: where ``config`` was written, for
    messages, where that is no model.yaml in ``folder``.

    Raises UserError for parts that are not there, that no network can be made of, or that this machine cannot hold.
    """
    site = site or Site(folder / "model.yaml")
    tokenizer = load_tokenizer(config, folder, site)
    model_config = to_model_config(config, folder, tokenizer, site)
    set_attention(model_config, attention)
    try_system(model_config, site)
    model = UllavaForConditionalGeneration(model_config)
    _start_afresh(model, config)
    _load_parts(model, config, folder, len(tokenizer))
    generation = model.generation_config
    generation.eos_token_id = turn_end_ids(tokenizer, CHAT_TEMPLATES[config.text.template])
    generation.pad_token_id = tokenizer.pad_token_id
    generation.bos_token_id = tokenizer.bos_token_id
    with vision_of(site):
        processor = build_processor(config, model_config, tokenizer)
    load_box_parts(model, processor, config.box, folder)
    return model, processor


def set_attention(config: UllavaConfig, attention: str) -> None:
    """Choose the attention kernel of every part that attends; SAM's decoder has a config two levels down."""
    for part in (config, config.text_config, config.vision_config, config.sam_config):
        part._attn_implementation = "eager" if isinstance(part, ConvNextConfig) else attention
    for part in (config.sam_config.vision_config, config.sam_config.mask_decoder_config):
        part._attn_implementation = attention


def load_tokenizer(config: ModelConfig, folder: Path, site: Site | None = None) -> Any:
    """The tokenizer of ``config.tokenizer`` with our special tokens added; ``site``: see ``build_model``."""
    path = folder / config.tokenizer
    if not path.exists():
        raise ConfigError(f"{(site or Site(folder / 'model.yaml')).of('tokenizer')}: no such folder: {path}")
    try:
        tokenizer = open_tokenizer(path)
    except UserError as error:
        where = (site or Site(folder / "model.yaml")).of("tokenizer")
        raise ConfigError([f"{where}: {problem}" for problem in error.problems]) from error
    if tokenizer.eos_token is None:
        raise UserError(f"{path}: the tokenizer has no end token, so answers could not end")
    add_special_tokens(tokenizer)
    return tokenizer


def build_processor(config: ModelConfig | HeadsConfig, model_config: UllavaConfig, tokenizer: Any) -> UllavaProcessor:
    """The processor that belongs to a model of ``model_config``; sizes come from there, never from YAML twice."""
    return UllavaProcessor(
        tokenizer=tokenizer,
        strategy=model_config.strategy,
        image_side=model_config.vision_config.image_size,
        patch=patch_of(model_config),
        aspect=model_config.aspect,
        merge=model_config.merge,
        settings=model_config.vision_settings,
        sam_side=model_config.sam_side,
        video_frames=model_config.video_frames,
        box_frame=model_config.box_frame,
        mask_score=model_config.mask_score,
        mask_kind=model_config.mask_kind,
        box=box_settings(config.box, model_config),
        system=config.text.system,
        max_length=config.text.max_length,
        as_released=config.text.as_released,
        answer=config.text.answer,
        chat_template=CHAT_TEMPLATES[config.text.template],
    )


def to_model_config(config: ModelConfig, folder: Path, tokenizer: Any, site: Site | None = None) -> UllavaConfig:
    """``model.yaml`` and the tokenizer -> UllavaConfig; ``site``: see ``build_model``."""
    where = site or Site(folder / "model.yaml")
    text = part_config(config.language, folder, where.of("language"), None, among=LANGUAGES)
    if not config.language.path:
        text.vocab_size = len(tokenizer)
    text.pad_token_id, text.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    text.bos_token_id = tokenizer.bos_token_id
    fields: dict[str, Any] = {**box_fields(config.box, folder, where.of("box")), **special_token_ids(tokenizer)}
    settings = strategy_settings(
        config.vision, lambda part, key: part_config(part, folder, where.of(f"vision.{key}"), None)
    )
    with vision_of(where):
        words = word_ids(config.vision.strategy, settings, tokenizer)
    return UllavaConfig(
        text_config=text,
        vision_config=part_config(
            config.vision.tower, folder, where.of("vision.tower"), TOWERS[config.vision.strategy]
        ),
        sam_config=part_config(config.mask.sam, folder, where.of("mask.sam"), SamConfig),
        strategy=config.vision.strategy,
        hidden_layer=config.vision.hidden_layer,
        projector=config.vision.projector,
        aspect=config.vision.aspect,
        merge=config.vision.merge,
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
        detector = part_config(box.detector, folder, site.of("detector"), None, among=DETECTORS)
    return {
        "box_kind": box.kind,
        "detector_config": detector,
        "box_width": box.width,
        "box_frame": box.frame,
        "box_sigmoid": box.sigmoid,
    }


def _start_afresh(model: UllavaForConditionalGeneration, config: ModelConfig) -> None:
    """Starting values of parts without pretrained weights, where transformers' own are meant for large models.

    A word table of its own (not tied to the language head) starts at the size that its RMS norm would give it: words
    then weigh as much as what the first layers add to them (models/tiny/README.md has the effect).
    """
    model.vision.start_afresh(frozenset(pretrained_paths(config.vision, Path())))
    if not config.mask.sam.path:
        start_sam_positions(model)
    if not config.language.path and not model.config.text_config.tie_word_embeddings:
        table: Any = model.get_input_embeddings()
        torch.nn.init.normal_(table.weight)


def _load_parts(model: UllavaForConditionalGeneration, config: ModelConfig, folder: Path, vocabulary: int) -> None:
    """Move pretrained weights of the parts that have a path into the model, and grow the vocabulary to fit."""
    if config.language.path:
        language = AutoModelForCausalLM.from_pretrained(str(folder / config.language.path))
        model.language_model.load_state_dict(language.state_dict(), strict=True, assign=True)
        if vocabulary > model.config.text_config.vocab_size:
            _grow_vocabulary(model, vocabulary)
    model.vision.load_pretrained(pretrained_paths(config.vision, folder))
    if config.mask.sam.path:
        sam = SamModel.from_pretrained(str(folder / config.mask.sam.path))
        cast(Any, model.mask_head).sam.load_state_dict(sam.state_dict(), strict=True, assign=True)
    model.tie_weights()


def _grow_vocabulary(model: UllavaForConditionalGeneration, vocabulary: int) -> None:
    """Add rows for new tokens, each the mean of the old rows (spec/ullava.md 1.6), in and out."""
    language = model.language_model
    old = language.get_input_embeddings().weight.shape[0]
    language.resize_token_embeddings(vocabulary, mean_resizing=False)
    with torch.no_grad():
        for table in {language.get_input_embeddings(), language.get_output_embeddings()}:
            table.weight[old:] = table.weight[:old].float().mean(dim=0).to(table.weight.dtype)
    model.config.text_config.vocab_size = vocabulary
