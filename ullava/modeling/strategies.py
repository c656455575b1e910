"""The closed table of vision strategies: name in model.yaml -> preprocessor and network part."""

from __future__ import annotations

from ullava.errors import UserError, did_you_mean
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.vision.clip_mlp import ClipMlp, ClipMlpPreprocessor
from ullava.modeling.vision.strategy import VisionPreprocessor

STRATEGIES = ("clip_mlp",)


def _unknown(name: str) -> UserError:
    return UserError(f"unknown vision strategy '{name}'{did_you_mean(name, STRATEGIES)}")


def build_strategy(config: UllavaConfig, width_out: int) -> ClipMlp:
    """Build the network part for tokens of width ``width_out``."""
    if config.strategy == "clip_mlp":
        return ClipMlp(
            config.vision_config,
            hidden_layer=config.hidden_layer,
            projector=config.projector,
            merge=config.merge,
            width_out=width_out,
        )
    raise _unknown(config.strategy)


def build_preprocessor(strategy: str, *, side: int, patch: int, aspect: str, merge: int) -> VisionPreprocessor:
    """Build the part that runs in data workers."""
    if strategy == "clip_mlp":
        return ClipMlpPreprocessor(side, patch, aspect, merge)
    raise _unknown(strategy)
