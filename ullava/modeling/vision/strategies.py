"""The one table of vision strategies: name in model.yaml -> preprocessor, network part, and the towers it can take.

Which vision tower a strategy looks through is its own choice of ``model.yaml`` (ullava.modeling.towers.table); any goes
with any, unless the row of the strategy says what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from transformers import PreTrainedConfig

from ullava.config.vision import PartConfig, VisionConfig
from ullava.errors import UserError, did_you_mean
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.towers.clip import ClipTower
from ullava.modeling.towers.convnext import ConvNextTower
from ullava.modeling.towers.table import TOWERS, tower_class, tower_of
from ullava.modeling.towers.tower_contract import Tower
from ullava.modeling.vision.avg import Avg, AvgPreprocessor
from ullava.modeling.vision.clip_mlp import ClipMlp, ClipMlpPreprocessor
from ullava.modeling.vision.conv import LAST_MAP, ConvPreprocessor, ConvStrategy
from ullava.modeling.vision.mg import Mg, MgPreprocessor
from ullava.modeling.vision.slime import Slime, SlimePreprocessor, slime_settings
from ullava.modeling.vision.strategy import VisionPreprocessor, VisionStrategy


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewFacts:
    """What a preprocessor is made of: the square's ``side``, pixels of a state (``patch``), ``UllavaConfig``'s choices.

    ``settings``: ``UllavaConfig.vision_settings``.
    """

    side: int
    patch: int
    image_aspect_ratio: str
    spatial_merge_size: int
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyRow:
    """One strategy: its ``network`` for tokens of a width, its ``preprocessor``, and what tower it looks through.

    ``tower``: the kind where ``vision.tower.config`` names none (``model_type``). ``any_size``: it needs a tower that
    sees images of any size. ``layer``: the hidden state that it always reads; None = ``vision.vision_feature_layer``.
    ``pyramid``: it hands the tower's maps on to a mask head (``mask.encoder: vision``).
    """

    network: Callable[[UllavaConfig, int], VisionStrategy]
    preprocessor: Callable[[ViewFacts], VisionPreprocessor]
    tower: type[Tower] = ClipTower
    any_size: bool = False
    layer: int | None = None
    pyramid: bool = False


def _clip_mlp(config: UllavaConfig, width_out: int) -> VisionStrategy:
    return ClipMlp(
        config.vision_config,
        vision_feature_layer=config.vision_feature_layer,
        projector=config.projector,
        spatial_merge_size=config.spatial_merge_size,
        width_out=width_out,
        pyramid=config.mask_encoder == "vision",
        **config.vision_settings,
    )


def _conv(config: UllavaConfig, width_out: int) -> VisionStrategy:
    video = config.vision_settings["video"]
    return ConvStrategy(config.vision_config, projector=config.projector, width_out=width_out, video=video)


def _slime(config: UllavaConfig, width_out: int) -> VisionStrategy:
    return Slime(
        config.vision_config,
        vision_feature_layer=config.vision_feature_layer,
        settings=slime_settings(config.vision_settings),
        separator_id=config.vision_settings["separator_id"],
        width_out=width_out,
    )


def _with_table(network: Callable[..., VisionStrategy]) -> Callable[[UllavaConfig, int], VisionStrategy]:
    """How a network is built that takes its settings as a table."""

    def build(config: UllavaConfig, width_out: int) -> VisionStrategy:
        return network(
            config.vision_config,
            vision_feature_layer=config.vision_feature_layer,
            projector=config.projector,
            width_out=width_out,
            settings=config.vision_settings,
        )

    return build


STRATEGIES: Mapping[str, StrategyRow] = {
    "clip_mlp": StrategyRow(
        network=_clip_mlp,
        preprocessor=lambda view: ClipMlpPreprocessor(
            view.side, view.patch, view.image_aspect_ratio, view.spatial_merge_size, **view.settings
        ),
        pyramid=True,
    ),
    "conv": StrategyRow(
        network=_conv,
        preprocessor=lambda view: ConvPreprocessor(view.side, view.patch, view.image_aspect_ratio, **view.settings),
        tower=ConvNextTower,
        any_size=True,
        layer=LAST_MAP,
    ),
    "slime": StrategyRow(
        network=_slime,
        preprocessor=lambda view: SlimePreprocessor(view.side, view.patch, slime_settings(view.settings)),
    ),
    "mg": StrategyRow(
        network=_with_table(Mg),
        preprocessor=lambda view: MgPreprocessor(view.side, view.patch, view.settings),
    ),
    "avg": StrategyRow(
        network=_with_table(Avg),
        preprocessor=lambda view: AvgPreprocessor(view.side, view.patch, view.settings),
    ),
}
"""Name in model.yaml -> row; ullava.config.vision.SETTINGS has the settings of each."""


def strategy_row(name: str) -> StrategyRow:
    """The row of a strategy. Raises UserError where there is none."""
    if name not in STRATEGIES:
        raise UserError(f"unknown vision strategy '{name}'{did_you_mean(name, STRATEGIES)}")
    return STRATEGIES[name]


def check_tower(strategy: str, config: PreTrainedConfig) -> None:
    """Raise UserError, which says what the strategy needs, for a tower that it cannot look through."""
    kind = tower_class(config.model_type)
    if strategy_row(strategy).any_size and not kind.any_size:
        able = " or ".join(name for name, row in TOWERS.items() if row.any_size)
        needed = f"a tower that sees images of any size ({able})"
        raise UserError(
            f"vision.strategy {strategy} needs {needed}; vision.tower is a {config.model_type}, which sees squares of "
            "its image_size"
        )


def build_strategy(config: UllavaConfig, width_out: int) -> VisionStrategy:
    """Build the network part for tokens of width ``width_out``. Raises UserError where tower or settings do not fit."""
    check_tower(config.strategy, config.vision_config)
    if config.mask_encoder == "vision" and not strategy_row(config.strategy).pyramid:
        able = " or ".join(name for name, row in STRATEGIES.items() if row.pyramid)
        raise UserError(
            f"mask.encoder vision needs a vision strategy that shows its maps of the whole image ({able}); "
            f"vision.strategy is {config.strategy}"
        )
    return strategy_row(config.strategy).network(config, width_out)


def build_preprocessor(
    strategy: str,
    *,
    side: int,
    patch: int,
    image_aspect_ratio: str,
    spatial_merge_size: int,
    settings: Mapping[str, Any],
) -> VisionPreprocessor:
    """Build the part that runs in data workers; ``settings``: ``UllavaConfig.vision_settings``."""
    view = ViewFacts(
        side=side,
        patch=patch,
        image_aspect_ratio=image_aspect_ratio,
        spatial_merge_size=spatial_merge_size,
        settings=settings,
    )
    return strategy_row(strategy).preprocessor(view)


def patch_of(config: UllavaConfig) -> int:
    """Pixels of the view along each side of what becomes one state of the tower."""
    row = strategy_row(config.strategy)
    return tower_of(config.vision_config).stride(config.vision_feature_layer if row.layer is None else row.layer)


def tower_configs(strategy: str) -> tuple[type[PreTrainedConfig], ...]:
    """Configs of all vision towers; first that of the strategy's own, which needs no ``model_type``."""
    first = strategy_row(strategy).tower.config_class
    return (first, *(row.config_class for row in TOWERS.values() if row.config_class is not first))


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
    """The vision encoder's networks that have pretrained weights: ``tower``, or the field of the strategy's own
    table.
    """
    own = vision.settings()
    named = {entry.name: getattr(own, entry.name) for entry in fields(own)}
    parts = {"tower": vision.tower} | {name: part for name, part in named.items() if isinstance(part, PartConfig)}
    return {name: part for name, part in parts.items() if part.path}
