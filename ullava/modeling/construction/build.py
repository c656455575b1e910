"""Builds a model afresh from ``model.yaml``, from pretrained parts or from sizes, together with its processor."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import ConvNextConfig

from ullava.config.schema import BoxHeadConfig, HeadsConfig, MaskHeadConfig, ModelConfig, PartConfig
from ullava.config.site import Site
from ullava.errors import ConfigError, UserError
from ullava.hub import find_folder, source_of
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.construction.part_configs import language_config, part_config
from ullava.modeling.construction.trial import NATIVES, try_system, vision_of
from ullava.modeling.cores.native_processor import image_id_of, read_native, template_of, video_id_of
from ullava.modeling.heads.box_table import box_settings, load_box_parts
from ullava.modeling.heads.detector import DETECTORS
from ullava.modeling.heads.mask_table import MASK_HEADS, load_mask_head, mask_row
from ullava.modeling.loading.pretrained import CONFIG_FILE, read_tokenizer
from ullava.modeling.loading.template_files import chat_template_of
from ullava.modeling.loading.weight_files import read_table
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.processing.processor import UllavaProcessor
from ullava.modeling.towers.table import REFUSED, tower_of
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
    system = read_system(config, folder, site)
    model = new_network(system, site, pretrained=with_weights(config), attn_implementation=attn_implementation)
    _load_parts(model, config, folder, len(system.tokenizer), site)
    processor = settled_processor(model, system, site)
    load_box_parts(model, processor, config.box, folder)
    parts = core_parts(config) | head_parts(config)
    model.config.pretrained = hub_sources(parts, folder, site)
    return model, processor


@dataclass(frozen=True, slots=True)
class System:
    """What a network is built of and what belongs to it, without weights.

    ``settings``: the network's own config. ``native``: the processor of a native core.
    """

    config: ModelConfig
    settings: UllavaConfig
    tokenizer: Any
    chat_template: str | None
    native: Any


def read_system(config: ModelConfig, folder: Path, site: Site | None = None) -> System:
    """Read all that a ``model.yaml`` names but weights. Arguments and errors: see ``build_model``."""
    written = site or Site(folder / "model.yaml")
    native = None if config.core.kind == "spliced" else read_native(config.core, folder, written.of("core"))
    chat_template = template_of(native) if native else chat_template_of(config.text, folder, written.of("text"))
    tokenizer = load_tokenizer(config, folder, site, native)
    settings = to_model_config(config, folder, tokenizer, site, native)
    return System(config, settings, tokenizer, chat_template, native)


def with_weights(config: ModelConfig) -> set[str]:
    """The keys of model.yaml of the parts that have a ``path``, which their weights are read from."""
    parts = core_parts(config) | head_parts(config)
    return {key for key, part in parts.items() if part is not None and part.path}


def new_network(
    system: System,
    site: Site,
    *,
    pretrained: Collection[str],
    dtype: torch.dtype = torch.float32,
    attn_implementation: str = "sdpa",
) -> UllavaForConditionalGeneration:
    """The network of a system, its weights random and made in ``dtype``.

    ``pretrained``: the keys of model.yaml whose weights are read afterwards. Raises ConfigError where no network can be
    made of the parts, or none that this machine can hold; ``site``: where they were written.
    """
    set_attention(system.settings, attn_implementation)
    try_system(system.settings, site, dtype)
    with _made_in(dtype):
        model = UllavaForConditionalGeneration(system.settings)
        _init_new_weights(model, system.config, pretrained)
    return model


def settled_processor(model: UllavaForConditionalGeneration, system: System, site: Site) -> UllavaProcessor:
    """The processor that belongs to a system; its network learns from it where answers end."""
    settle_generation(model, system.tokenizer, system.chat_template)
    with vision_of(site):
        return build_processor(system.config, system.settings, system.tokenizer, system.chat_template, system.native)


@contextmanager
def _made_in(dtype: torch.dtype) -> Iterator[None]:
    """Make new weights in ``dtype``, without a copy in float32 before."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def settle_generation(model: UllavaForConditionalGeneration, tokenizer: Any, chat_template: str | None) -> None:
    """Tell ``generate`` where an answer in this format ends, and the tokenizer's other special tokens."""
    generation = model.generation_config
    generation.eos_token_id = turn_end_ids(tokenizer, chat_template)
    generation.pad_token_id = tokenizer.pad_token_id
    generation.bos_token_id = tokenizer.bos_token_id


def set_attention(config: UllavaConfig, attn_implementation: str) -> None:
    """Choose the attention kernel of every part that attends; a mask decoder's config may lie two levels down."""
    mask = config.mask_part
    within = [getattr(mask, key, None) for key in ("vision_config", "mask_decoder_config")]
    backbone = getattr(within[0], "backbone_config", None)
    for part in (config, config.native_config or config.text_config, mask, *within, backbone):
        if part is not None:
            part._attn_implementation = attn_implementation
    if backbone is not None and backbone.model_type == "timm_wrapper":
        backbone._attn_implementation = "sdpa"  # of convolutions; the wrapper knows no other word
    if config.vision_config is not None:
        config.vision_config._attn_implementation = (
            attn_implementation if tower_of(config.vision_config).attends else "eager"
        )


def load_tokenizer(config: ModelConfig, folder: Path, site: Site | None = None, native: Any = None) -> Any:
    """The tokenizer of ``config.tokenizer`` with our special tokens added; ``site``: see ``build_model``.

    ``native``: the processor of a native core, whose tokenizer it is then.
    """
    if native is not None:
        add_special_tokens(native.tokenizer, media=False)
        return native.tokenizer
    where = (site or Site(folder / "model.yaml")).of("tokenizer")
    path = find_folder(config.tokenizer, folder, str(where), weights=False)
    try:
        tokenizer = read_tokenizer(path)
    except UserError as error:
        raise ConfigError([f"{where}: {problem}" for problem in error.problems]) from error
    if tokenizer.eos_token is None:
        raise UserError(f"{path}: the tokenizer has no end token, so answers could not end")
    add_special_tokens(tokenizer, regions=config.vision.regions is not None)
    return tokenizer


def build_processor(
    config: ModelConfig | HeadsConfig,
    model_config: UllavaConfig,
    tokenizer: Any,
    chat_template: str | None = None,
    native: Any = None,
) -> UllavaProcessor:
    """The processor that belongs to a model of ``model_config``; sizes come from there, never from YAML twice.

    ``chat_template``: what ``chat_template_of`` found; without it ``config.text.template`` is a format of ours.
    ``native``: the processor of a native core.
    """
    processor = UllavaProcessor(
        tokenizer=tokenizer,
        **processor_facts(model_config),
        box=box_settings(config.box, model_config),
        system=config.text.system,
        max_length=config.text.max_length,
        as_released=config.text.as_released,
        answer=config.text.answer,
        chat_template=chat_template or CHAT_TEMPLATES[config.text.template],
    )
    if native is not None:
        processor.set_native(native)
    return processor


def processor_facts(config: UllavaConfig) -> dict[str, Any]:
    """The arguments of UllavaProcessor that the model's config decides."""
    heads = {
        "core": config.core_kind,
        "sam_side": config.sam_side,
        "video_frames": config.video_frames,
        "box_frame": config.box_frame,
        "mask_score": config.mask_score,
        "mask_kind": config.mask_kind,
        "mask_encoder": config.mask_encoder,
    }
    if config.vision_config is None:
        return heads
    return heads | {
        "strategy": config.strategy,
        "image_side": config.vision_config.image_size,
        "patch": patch_of(config),
        "image_aspect_ratio": config.image_aspect_ratio,
        "spatial_merge_size": config.spatial_merge_size,
        "settings": config.vision_settings,
        "region_grid": config.region_grid,
    }


def to_model_config(
    config: ModelConfig, folder: Path, tokenizer: Any, site: Site | None = None, native: Any = None
) -> UllavaConfig:
    """``model.yaml`` and the tokenizer -> UllavaConfig; ``site``, ``native``: see ``build_model``."""
    where = site or Site(folder / "model.yaml")
    core = _spliced_fields if config.core.kind == "spliced" else partial(_native_fields, native=native)
    return UllavaConfig(
        **mask_fields(config.mask, folder, where.of("mask")),
        head_state=config.head_state,
        grounding_layer=config.grounding_layer,
        max_text_length=config.text.max_length,
        marker_gradient_only=config.marker_gradient_only,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        **core(config, folder, tokenizer, where),
        **box_fields(config.box, folder, where.of("box")),
    )


MASK_CHOICES = ("kind", "encoder", "score", "repeat_prompt")
"""Fields of a mask head that a saved config keeps, each as ``mask_NAME``."""


def mask_fields(mask: MaskHeadConfig, folder: Path, site: Site) -> dict[str, Any]:
    """Return what ``UllavaConfig`` holds of a mask head. Raises ConfigError as ``part_config``, for ``site``."""
    row = mask_row(mask.kind, mask.encoder)
    if missing := row.lacks():
        raise ConfigError(f"{site.of('kind')}: {mask.kind} {missing}")
    sizes: dict[str, Any] = dict.fromkeys(entry.part for entry in MASK_HEADS.values())
    sizes[row.part] = part_config(mask.part, folder, site.of(mask.kind), (row.config,))
    return {**sizes, **{f"mask_{name}": getattr(mask, name) for name in MASK_CHOICES}}


def _native_fields(
    config: ModelConfig, folder: Path, tokenizer: Any, where: Site, native: Any = None
) -> dict[str, Any]:
    """What ``UllavaConfig`` holds of a native core, whose processor is ``native`` (read where it is None)."""
    native = native or read_native(config.core, folder, where.of("core"))
    whole = part_config(config.core, folder, where.of("core"), among=NATIVES)
    image, video = image_id_of(native), video_id_of(native)
    visual = {"image_token_id": image} | ({} if video in (None, image) else {"video_token_id": video})
    if not config.core.path:
        whole.update(visual)
        whole.get_text_config(decoder=True).vocab_size = len(tokenizer)
    for name, written in visual.items():
        if (found := getattr(whole, name, None)) != written:
            raise ConfigError(f"{where.of('core')}: the model's {name} is {found}, its processor writes {written}")
    text = whole.get_text_config(decoder=True)
    for part in (whole, text):
        part.pad_token_id, part.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
        part.bos_token_id = tokenizer.bos_token_id
    ids = special_token_ids(tokenizer, media=False)
    return {
        "core_kind": config.core.kind,
        "native_config": whole,
        "image_patch_id": image,
        "video_patch_id": video,
        "video_frames": config.core.video_frames,
        **ids,
    }


def _spliced_fields(config: ModelConfig, folder: Path, tokenizer: Any, where: Site) -> dict[str, Any]:
    """What ``UllavaConfig`` holds of a causal LM and the vision strategy in front of it."""
    text = language_config(config.language, folder, where.of("language"))
    if not config.language.path:
        text.vocab_size = len(tokenizer)
    text.pad_token_id, text.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    text.bos_token_id = tokenizer.bos_token_id
    settings = strategy_settings(
        config.vision, lambda part, key: part_config(part, folder, where.of(f"vision.{key}"), (ConvNextConfig,))
    )
    _refuse_tower(config.vision.tower, folder, where.of("vision.tower"))
    tower = part_config(config.vision.tower, folder, where.of("vision.tower"), tower_configs(config.vision.strategy))
    with vision_of(where):
        words = word_ids(config.vision.strategy, settings, tokenizer)
        check_tower(config.vision.strategy, tower)
    return {
        "text_config": text,
        "vision_config": tower,
        "strategy": config.vision.strategy,
        "vision_feature_layer": config.vision.vision_feature_layer,
        "projector": config.vision.projector,
        "image_aspect_ratio": config.vision.image_aspect_ratio,
        "spatial_merge_size": config.vision.spatial_merge_size,
        "vision_settings": settings | words,
        "video_frames": config.vision.video_frames,
        "region_grid": None if config.vision.regions is None else config.vision.regions.grid,
        **special_token_ids(tokenizer, regions=config.vision.regions is not None),
    }


def _refuse_tower(tower: PartConfig, folder: Path, site: Site) -> None:
    """Raise ConfigError, which says what to name instead, for a vision tower that one might expect to work."""
    kind = tower.config.get("model_type")
    if tower.path:
        where = str(site.of("path"))
        path = find_folder(tower.path, folder, where, revision=tower.revision, weights=False)
        file = path / CONFIG_FILE
        kind = read_table(file).get("model_type") if file.is_file() else None
    if isinstance(kind, str) and kind in REFUSED:
        raise ConfigError(f"{site}: {kind}: {REFUSED[kind]}")


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


def _init_new_weights(model: UllavaForConditionalGeneration, config: ModelConfig, pretrained: Collection[str]) -> None:
    """Starting values of parts without pretrained weights, where transformers' own are meant for large models."""
    model.core.init_new_weights(pretrained)
    if f"mask.{config.mask.kind}" not in pretrained:
        model.mask_head.init_new_weights()


def core_parts(config: ModelConfig) -> dict[str, PartConfig]:
    """The parts of transformers that the core is made of, by their keys in model.yaml."""
    if config.core.kind != "spliced":
        return {"core": config.core}
    vision = {f"vision.{name}": part for name, part in pretrained_parts(config.vision).items()}
    return {"language": config.language, **vision}


def head_parts(config: ModelConfig | HeadsConfig) -> dict[str, PartConfig | None]:
    """The parts of transformers that the heads are made of, by their keys in model.yaml."""
    return {f"mask.{config.mask.kind}": config.mask.part, "box.detector": config.box.detector}


def _load_parts(
    model: UllavaForConditionalGeneration, config: ModelConfig, folder: Path, vocabulary: int, site: Site
) -> None:
    """Move pretrained weights of the parts that have a path into the model, and grow the vocabulary to fit."""
    named = {key: part for key, part in core_parts(config).items() if part.path}
    folders = {key: weights_of(part, folder, site.of(key)) for key, part in named.items()}
    model.core.load_pretrained(folders, num_layers=config.language.num_layers)
    if vocabulary > model.config.text_config.vocab_size:
        model.core.grow_vocabulary(vocabulary)
    if config.mask.part.path:
        load_mask_head(model, weights_of(config.mask.part, folder, site.of(f"mask.{config.mask.kind}")))
    model.tie_weights()


def hub_sources(parts: Mapping[str, PartConfig | None], folder: Path, site: Site) -> dict[str, dict[str, str]]:
    """Return which of ``parts`` (key of model.yaml -> part) came from the Hub, for ``UllavaConfig.pretrained``."""
    named = {key: part for key, part in parts.items() if part is not None and part.path}
    sources = {key: source_of(weights_of(part, folder, site.of(key))) for key, part in named.items()}
    return {key: source for key, source in sources.items() if source is not None}


def weights_of(part: PartConfig, folder: Path, site: Site) -> Path:
    """The folder with the weights of a part that has a ``path`` and was written at ``site``; see ``ullava.hub``."""
    return find_folder(str(part.path), folder, str(site.of("path")), revision=part.revision)
