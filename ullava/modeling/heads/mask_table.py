"""The closed table of mask heads: ``mask.kind`` of model.yaml -> the part with weights and the part without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from ullava.errors import UserError, did_you_mean
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.heads.mask_contract import MaskHead, MaskRules
from ullava.modeling.heads.mask_sam import MaskScore, SamMaskHead, SamMaskRules


@dataclass(frozen=True, slots=True)
class MaskHeadKind:
    """One row of the table.

    ``network``: a model's config and the width of its states -> the part with weights; ``rules``: side of the encoder's
    square and what the score is -> the part without.
    """

    network: Callable[[UllavaConfig, int], MaskHead]
    rules: Callable[[int, str], MaskRules]


MASK_HEADS: Mapping[str, MaskHeadKind] = {
    "sam": MaskHeadKind(
        network=lambda config, width_in: SamMaskHead(config.sam_config, width_in),
        rules=lambda side, score: SamMaskRules(side, cast(MaskScore, score)),
    ),
}


def _row(kind: str) -> MaskHeadKind:
    if kind not in MASK_HEADS:
        raise UserError(f"unknown mask head '{kind}'{did_you_mean(kind, MASK_HEADS)}")
    return MASK_HEADS[kind]


def build_mask_head(config: UllavaConfig, width_in: int) -> MaskHead:
    """Build the part with weights for states of ``width_in``. Raises UserError for a kind that is not in the table."""
    return _row(config.mask_kind).network(config, width_in)


def build_mask_rules(settings: Mapping[str, Any]) -> MaskRules:
    """Build the part without weights from the processor's settings: ``kind``, ``side`` and ``score``."""
    return _row(settings["kind"]).rules(int(settings["side"]), str(settings["score"]))
