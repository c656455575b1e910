"""The second stage's model from the first stage's: language model, tower and projector kept, heads made afresh."""

from __future__ import annotations

import copy
from pathlib import Path

from transformers import SamConfig, SamModel

from ullava.config.schema import HeadsConfig
from ullava.modeling.build import build_processor, part_config, set_attention
from ullava.modeling.positions import start_positions
from ullava.modeling.processing import UllavaProcessor
from ullava.modeling.ullava import UllavaForConditionalGeneration


def build_fresh_heads(
    core: UllavaForConditionalGeneration,
    processor: UllavaProcessor,
    heads: HeadsConfig,
    folder: Path,
    *,
    attention: str = "sdpa",
) -> tuple[UllavaForConditionalGeneration, UllavaProcessor]:
    """Return a model with the language model and vision of ``core`` and the heads that ``heads`` describes.

    Relative paths of ``heads`` start at ``folder``. SAM comes from its path, or at random where it has none; the
    projectors of the heads are random (seed before). View and conversation are those of ``heads``. ``core`` gives its
    weights away and is not to be used any more.
    """
    config = copy.deepcopy(core.config)
    config.sam_config = part_config(heads.mask.sam, folder, "heads.mask.sam", SamConfig)
    config.mask_score = heads.mask.score
    config.box_width, config.box_frame, config.box_sigmoid = heads.box.width, heads.box.frame, heads.box.sigmoid
    config.aspect = heads.aspect
    config.max_text_length = heads.text.max_length
    set_attention(config, attention)
    model = UllavaForConditionalGeneration(config)
    start_positions(model, tower=False, sam=not heads.mask.sam.path)
    model.language_model.load_state_dict(core.language_model.state_dict(), strict=True, assign=True)
    model.vision.load_state_dict(core.vision.state_dict(), strict=True, assign=True)
    if heads.mask.sam.path:
        sam = SamModel.from_pretrained(str(folder / heads.mask.sam.path))
        model.mask_head.sam.load_state_dict(sam.state_dict(), strict=True, assign=True)
    model.tie_weights()
    model.generation_config = copy.deepcopy(core.generation_config)
    return model, build_processor(heads, config, processor.tokenizer)
