"""Regions for a model that was made without: a token, the projector, and what the processor has to know."""

from __future__ import annotations

from ullava.errors import UserError
from ullava.modeling.cores.core_spliced import SplicedCore
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.processing.processor import UllavaProcessor
from ullava.text.tokens import add_special_tokens, special_token_ids


def add_regions(model: UllavaForConditionalGeneration, processor: UllavaProcessor, grid: int) -> None:
    """Let questions point at regions, ``grid`` x ``grid`` tokens each; all other weights stay.

    The projector is random (seed before), the new row of the vocabulary the mean of the others, as ever.
    Raises UserError for a core that sees with its own encoder, and a vision strategy that gives no map.
    """
    core = model.core
    if not isinstance(core, SplicedCore):
        raise UserError(f"core {core.kind} sees with its own vision encoder and takes no regions")
    add_special_tokens(processor.tokenizer, regions=True)
    ids = special_token_ids(processor.tokenizer, regions=True)
    if len(processor.tokenizer) > model.config.text_config.vocab_size:
        core.grow_vocabulary(len(processor.tokenizer))
        model.tie_weights()
    model.config.region_grid = grid
    model.config.region_patch_id = ids["region_patch_id"]
    regions = core.build_regions()
    regions.apply(model._init_weights)
    model.add_module("regions", regions.to(model.device, model.dtype))
    processor.region_grid, processor.token_ids = grid, ids
