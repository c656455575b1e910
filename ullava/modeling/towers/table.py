"""The one table of vision towers: ``model_type`` of transformers -> its row. To add one: docs/vision_encoders.md."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedConfig

from ullava.errors import UserError, did_you_mean
from ullava.modeling.towers.clip import ClipTower
from ullava.modeling.towers.convnext import ConvNextTower
from ullava.modeling.towers.dinov2 import Dinov2RegistersTower, Dinov2Tower
from ullava.modeling.towers.efficientnet import EfficientNetTower
from ullava.modeling.towers.siglip import SiglipTower
from ullava.modeling.towers.tower_contract import Tower

_ROWS: tuple[type[Tower], ...] = (
    ClipTower,
    SiglipTower,
    Dinov2Tower,
    Dinov2RegistersTower,
    ConvNextTower,
    EfficientNetTower,
)

TOWERS: Mapping[str, type[Tower]] = {row.config_class.model_type: row for row in _ROWS}
"""``model_type`` of the config -> what is known of such towers."""

REFUSED: Mapping[str, str] = {
    kind: "SigLIP 2 NaFlex is not supported, since its patches are of no fixed grid: name SigLIP 2 at a fixed "
    "resolution (a siglip_vision_model, such as google/siglip2-base-patch16-384)"
    for kind in ("siglip2_vision_model", "siglip2")
}
"""``model_type`` -> why there is no row for a network that one might expect here."""


def tower_class(model_type: str) -> type[Tower]:
    """The row of ``model_type``. Raises UserError where there is none."""
    if model_type not in TOWERS:
        raise UserError(f"unknown vision tower '{model_type}'{did_you_mean(model_type, TOWERS)}")
    return TOWERS[model_type]


def tower_of(config: PreTrainedConfig) -> Tower:
    """What is known of the tower that ``config`` describes. Raises UserError for a kind that the table lacks."""
    return tower_class(config.model_type)(config)
