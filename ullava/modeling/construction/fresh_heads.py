"""The second stage's model from the first stage's: language model, tower and projector kept, heads made afresh."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

from ullava.config.schema import BoxHeadConfig, HeadsConfig, PartConfig
from ullava.config.site import Site
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.construction.build import (
    box_fields,
    build_processor,
    head_parts,
    hub_sources,
    mask_fields,
    set_attention,
    weights_of,
)
from ullava.modeling.construction.trial import try_system
from ullava.modeling.heads.box_table import box_settings, build_box_head, load_box_parts
from ullava.modeling.heads.mask_table import load_mask_head
from ullava.modeling.loading.template_files import chat_template_of
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.processing.processor import UllavaProcessor


def build_fresh_heads(
    core: UllavaForConditionalGeneration,
    processor: UllavaProcessor,
    heads: HeadsConfig,
    folder: Path,
    *,
    attn_implementation: str = "sdpa",
    site: Site,
) -> tuple[UllavaForConditionalGeneration, UllavaProcessor]:
    """Return a model with the language model and vision of ``core`` and the heads that ``heads`` describes.

    Relative paths of ``heads`` start at ``folder``; ``site`` is where they were written. SAM comes from its path, or at
    random where it has none; the projectors of the heads are random (seed before). View and conversation are those of
    ``heads``. ``core`` gives its weights away and is not to be used any more.
    """
    own = processor.chat_template if processor.native else None
    chat_template = own or chat_template_of(heads.text, folder, site.of("text"))
    config = copy.deepcopy(core.config)
    for name, value in mask_fields(heads.mask, folder, site.of("mask")).items():
        setattr(config, name, value)
    _set_box(config, heads.box, folder, site.of("box"))
    config.image_aspect_ratio = heads.image_aspect_ratio
    config.max_text_length = heads.text.max_length
    set_attention(config, attn_implementation)
    try_system(config, site)
    model = UllavaForConditionalGeneration(config)
    if not heads.mask.part.path:
        model.mask_head.init_new_weights()
    kept = core.core.modules()
    for name, network in model.core.modules().items():
        network.load_state_dict(kept[name].state_dict(), strict=True, assign=True)
    if heads.mask.part.path:
        load_mask_head(model, weights_of(heads.mask.part, folder, site.of(f"mask.{heads.mask.kind}")))
    model.tie_weights()
    model.generation_config = copy.deepcopy(core.generation_config)
    made = build_processor(heads, config, processor.tokenizer, chat_template, processor.native)
    load_box_parts(model, made, heads.box, folder)
    _note_sources(config, head_parts(heads), folder, site)
    return model, made


def build_fresh_box(
    core: UllavaForConditionalGeneration,
    processor: UllavaProcessor,
    box: BoxHeadConfig,
    folder: Path,
    *,
    attn_implementation: str = "sdpa",
    site: Site,
) -> tuple[UllavaForConditionalGeneration, UllavaProcessor]:
    """Give ``core`` another box head, as ``box`` describes it, and return both; all else, adapters too, stays.

    Relative paths of ``box`` start at ``folder``; ``site`` is where it was written.
    """
    config = copy.deepcopy(core.config)
    _set_box(config, box, folder, site)
    set_attention(config, attn_implementation)
    try_system(config, site)
    head = build_box_head(config, int(config.text_config.hidden_size))
    if box.detector is None:  # a detector of transformers' sets its own starting values
        head.apply(core._init_weights)
    core.box_head = head.to(core.device, core.dtype)
    _set_box(core.config, box, folder, site)
    processor.set_box(box_settings(box, config), config.box_frame)
    load_box_parts(core, processor, box, folder)
    core.all_tied_weights_keys.update(core.get_expanded_tied_weights_keys(all_submodels=True))
    core.tie_weights()
    _note_sources(core.config, {"box.detector": box.detector}, folder, site)
    return core, processor


def _note_sources(config: UllavaConfig, heads: Mapping[str, PartConfig | None], folder: Path, site: Site) -> None:
    """Write down where the new heads came from, in the place of where the old ones did."""
    made = {key.partition(".")[0] for key in heads}
    kept = {key: source for key, source in config.pretrained.items() if key.partition(".")[0] not in made}
    config.pretrained = kept | hub_sources(heads, folder, site)


def _set_box(config: UllavaConfig, box: BoxHeadConfig, folder: Path, site: Site) -> None:
    for name, value in box_fields(box, folder, site).items():
        setattr(config, name, value)
