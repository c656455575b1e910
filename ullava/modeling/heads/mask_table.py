"""The closed table of mask heads: ``mask.kind`` of model.yaml -> the part with weights and the part without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedConfig, Sam2MaskDecoderConfig, SamConfig

from ullava.errors import UserError, did_you_mean
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.heads.mask_contract import MaskHead, MaskRules
from ullava.modeling.heads.mask_sam import MaskScore, SamMaskHead, SamMaskRules
from ullava.modeling.heads.mask_sam2 import Sam2MaskHead
from ullava.modeling.heads.vision_view import VisionViewRules
from ullava.modeling.towers.table import tower_of


@dataclass(frozen=True, slots=True)
class MaskHeadKind:
    """One row of the table.

    ``network``: a model's config and the width of its states -> the part with weights; ``rules``: the processor's
    settings (``build_mask_rules``) -> the part without. ``part``: the field of the model's config with its sizes, and
    ``config``: what they are.
    """

    network: Callable[[UllavaConfig, int], MaskHead]
    rules: Callable[[Mapping[str, Any]], MaskRules]
    part: str
    config: type[PreTrainedConfig]


def _sam(config: UllavaConfig, width_in: int) -> MaskHead:
    return SamMaskHead(cast(SamConfig, config.sam_config), width_in)


def _sam2(config: UllavaConfig, width_in: int) -> MaskHead:
    levels = tower_of(config.vision_config).levels()
    return Sam2MaskHead(cast(Sam2MaskDecoderConfig, config.sam2_config), levels, config.sam_side, width_in)


MASK_HEADS: Mapping[str, MaskHeadKind] = {
    "sam": MaskHeadKind(
        network=_sam,
        rules=lambda settings: SamMaskRules(int(settings["side"]), cast(MaskScore, settings["score"])),
        part="sam_config",
        config=SamConfig,
    ),
    "sam2": MaskHeadKind(
        network=_sam2,
        rules=lambda settings: VisionViewRules(int(settings["side"]), str(settings["image_aspect_ratio"])),
        part="sam2_config",
        config=Sam2MaskDecoderConfig,
    ),
}


def mask_row(kind: str) -> MaskHeadKind:
    """The row of a kind. Raises UserError where there is none."""
    if kind not in MASK_HEADS:
        raise UserError(f"unknown mask head '{kind}'{did_you_mean(kind, MASK_HEADS)}")
    return MASK_HEADS[kind]


def build_mask_head(config: UllavaConfig, width_in: int) -> MaskHead:
    """Build the part with weights for states of ``width_in``. Raises UserError for a kind that is not in the table."""
    return mask_row(config.mask_kind).network(config, width_in)


def build_mask_rules(settings: Mapping[str, Any]) -> MaskRules:
    """Build the part without weights from the processor's settings: ``kind``, ``side``, ``score`` and
    ``image_aspect_ratio``.
    """
    return mask_row(settings["kind"]).rules(settings)
