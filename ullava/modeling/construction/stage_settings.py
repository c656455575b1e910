"""What a stage of training does otherwise than the model says: switches of the vision encoder, how dialogues are
written.

Weights stay as they are. The changes are saved with the model; a later stage says what it wants itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import yaml

from ullava.config.load import parse_text
from ullava.config.vision import SETTINGS
from ullava.errors import ConfigError, UserError
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.processing.processor import UllavaProcessor
from ullava.modeling.vision.strategies import build_strategy
from ullava.modeling.vision.strategy import VisionStrategy
from ullava.text.conversation import CHAT_TEMPLATES, turn_end_ids


def change_vision(
    model: UllavaForConditionalGeneration, processor: UllavaProcessor, changes: Mapping[str, Any], where: str
) -> None:
    """Lay ``changes`` over the settings of the model's vision strategy, in the network and in the processor.

    Raises ConfigError, which names ``where``, for keys and values that the strategy's table does not take, and for
    changes after which the weights do not fit any more.
    """
    if model.core.strategy is None:
        raise ConfigError(f"{where}: core {model.core.kind} has no vision strategy whose settings could change")
    config = model.config
    parsed = parse_text(SETTINGS[config.strategy], yaml.safe_dump(dict(changes)), where)
    settings = {**config.vision_settings, **{name: getattr(parsed, name) for name in changes}}
    before, config.vision_settings = config.vision_settings, settings
    try:
        new = _rebuilt(model.config, model.core.strategy)
        processor.set_vision(settings)
    except UserError as error:
        config.vision_settings = before
        raise ConfigError([f"{where}: {problem}" for problem in error.problems]) from error
    model.set_strategy(new)


def _rebuilt(config: UllavaConfig, old: VisionStrategy) -> VisionStrategy:
    """The model's vision encoder under its config as it is now, with the same weights; UserError where they do not
    fit.
    """
    with torch.device("meta"):
        new = build_strategy(config, config.text_config.hidden_size)
    try:
        new.load_state_dict(old.state_dict(), strict=True, assign=True)
    except RuntimeError as error:
        raise UserError(f"the weights do not fit these settings: {error}") from error
    made = dict(old.named_buffers())
    for name, buffer in list(new.named_buffers()):
        if buffer.is_meta:  # not among the weights, and the same under any settings: numbers of positions
            owner, _, leaf = name.rpartition(".")
            setattr(new.get_submodule(owner), leaf, made[name])
    return new.train(old.training)


def change_conversation(model: UllavaForConditionalGeneration, processor: UllavaProcessor, template: str) -> None:
    """Write dialogues in the format ``template`` from now on (ullava.text.conversation).

    Raises UserError for a format whose end the tokenizer lacks, and for a core that brings a format of its own.
    """
    if processor.native is not None:
        raise UserError(f"conversation: core {processor.core} writes dialogues in its own format, not in {template}")
    ends = turn_end_ids(processor.tokenizer, CHAT_TEMPLATES[template])  # before anything is changed: it may refuse
    processor.chat_template = CHAT_TEMPLATES[template]
    model.generation_config.eos_token_id = ends
