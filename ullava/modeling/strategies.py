"""The closed table of vision strategies: name in model.yaml -> tower, preprocessor and network part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from transformers import CLIPVisionConfig, ConvNextConfig, PreTrainedConfig

from ullava.config.vision import PartConfig, VisionConfig
from ullava.errors import UserError, did_you_mean
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.vision.avg import Avg, AvgPreprocessor
from ullava.modeling.vision.clip_mlp import ClipMlp, ClipMlpPreprocessor
from ullava.modeling.vision.conv import ConvPreprocessor, ConvStrategy, stride_of
from ullava.modeling.vision.mg import Mg, MgPreprocessor
from ullava.modeling.vision.slime import Slime, SlimePreprocessor, slime_settings
from ullava.modeling.vision.strategy import VisionPreprocessor, VisionStrategy

TOWERS: Mapping[str, type[PreTrainedConfig]] = {
    "clip_mlp": CLIPVisionConfig,
    "slime": CLIPVisionConfig,
    "conv": ConvNextConfig,
    "mg": CLIPVisionConfig,
    "avg": CLIPVisionConfig,
}
"""Strategy -> what its tower's config is."""

STRATEGIES = tuple(TOWERS)


def _unknown(name: str) -> UserError:
    return UserError(f"unknown vision strategy '{name}'{did_you_mean(name, STRATEGIES)}")


def build_strategy(config: UllavaConfig, width_out: int) -> VisionStrategy:
    """Build the network part for tokens of width ``width_out``."""
    if config.strategy == "clip_mlp":
        return ClipMlp(
            config.vision_config,
            hidden_layer=config.hidden_layer,
            projector=config.projector,
            merge=config.merge,
            width_out=width_out,
            **config.vision_settings,
        )
    if config.strategy == "conv":
        video = config.vision_settings["video"]
        return ConvStrategy(config.vision_config, projector=config.projector, width_out=width_out, video=video)
    if config.strategy == "slime":
        return Slime(
            config.vision_config,
            hidden_layer=config.hidden_layer,
            settings=slime_settings(config.vision_settings),
            separator_id=config.vision_settings["separator_id"],
            width_out=width_out,
        )
    if config.strategy in ("mg", "avg"):
        network = Mg if config.strategy == "mg" else Avg
        return network(
            config.vision_config,
            hidden_layer=config.hidden_layer,
            projector=config.projector,
            width_out=width_out,
            settings=config.vision_settings,
        )
    raise _unknown(config.strategy)


def build_preprocessor(
    strategy: str, *, side: int, patch: int, aspect: str, merge: int, settings: Mapping[str, Any]
) -> VisionPreprocessor:
    """Build the part that runs in data workers; ``settings``: ``UllavaConfig.vision_settings``."""
    if strategy == "clip_mlp":
        return ClipMlpPreprocessor(side, patch, aspect, merge, **settings)
    if strategy == "conv":
        return ConvPreprocessor(side, patch, aspect, **settings)
    if strategy == "slime":
        return SlimePreprocessor(side, patch, slime_settings(settings))
    if strategy == "mg":
        return MgPreprocessor(side, patch, settings)
    if strategy == "avg":
        return AvgPreprocessor(side, patch, settings)
    raise _unknown(strategy)


def patch_of(config: UllavaConfig) -> int:
    """Pixels of the view along each side of what becomes one state of the tower."""
    tower = config.vision_config
    return stride_of(tower) if isinstance(tower, ConvNextConfig) else int(tower.patch_size)


def word_ids(strategy: str, settings: Mapping[str, Any], tokenizer: Any) -> dict[str, int]:
    """Ids of the words that a strategy writes between its tokens, for ``UllavaConfig.vision_settings``.

    Raises UserError where the tokenizer needs several tokens for one.
    """
    if strategy != "slime":
        return {}
    word = settings["separator"]
    known = tokenizer.get_vocab().get(word)
    ids = [known] if known is not None else tokenizer(word, add_special_tokens=False)["input_ids"]
    ids = [number for number in ids if tokenizer.decode([number]).strip()] if len(ids) > 1 else ids  # a blank before it
    if len(ids) != 1:
        raise UserError(f"vision.slime.separator: '{word}' is {len(ids)} tokens of this tokenizer, it has to be one")
    return {"separator_id": int(ids[0])}


def strategy_settings(vision: VisionConfig, sizes: Callable[[PartConfig, str], PreTrainedConfig]) -> dict[str, Any]:
    """The chosen strategy's own table as plain values, for ``UllavaConfig.vision_settings``.

    ``sizes``: a network of transformers and its key in the YAML -> its config, which takes its place in the table.
    """
    own = vision.settings()
    table: dict[str, Any] = {}
    for entry in fields(own):
        value = getattr(own, entry.name)
        if isinstance(value, PartConfig):
            value = sizes(value, f"{vision.strategy}.{entry.name}").to_dict()
        table[entry.name] = value
    return table


def pretrained_parts(vision: VisionConfig) -> dict[str, PartConfig]:
    """The front-end's networks that have pretrained weights: ``tower``, or the field of the strategy's own table."""
    own = vision.settings()
    named = {entry.name: getattr(own, entry.name) for entry in fields(own)}
    parts = {"tower": vision.tower} | {name: part for name, part in named.items() if isinstance(part, PartConfig)}
    return {name: part for name, part in parts.items() if part.path}
