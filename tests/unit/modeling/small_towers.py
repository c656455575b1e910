"""Every kind of vision tower at the smallest sizes that keep its parts alive: image 32, states on a grid of 4 x 4."""

from __future__ import annotations

from typing import Any

from ullava.modeling.towers.table import tower_class
from ullava.modeling.towers.tower_contract import Tower

_VIT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
_STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 4, "image_size": 32}

SMALL_TOWERS: dict[str, dict[str, Any]] = {
    "clip": {"model_type": "clip_vision_model", "intermediate_size": 24, **_VIT},
    "siglip": {"model_type": "siglip_vision_model", "intermediate_size": 24, **_VIT},
    "siglip without head": {
        "model_type": "siglip_vision_model", "intermediate_size": 24, "vision_use_head": False, **_VIT,
    },
    "dinov2": {"model_type": "dinov2", "mlp_ratio": 2, **_VIT},
    "dinov2 with registers": {
        "model_type": "dinov2_with_registers", "mlp_ratio": 2, "num_register_tokens": 3, **_VIT,
    },
    "convnext": {"model_type": "convnext", "layer_scale_init_value": 1.0, **_STAGES},
    "efficientnet": {
        "model_type": "efficientnet_lite", "image_size": 32, "stem_size": 8, "hidden_sizes": [8, 12, 16],
        "depths": [1, 1, 2], "strides": [1, 2, 2], "kernel_sizes": [3, 3, 5], "expand_ratios": [1, 2, 2],
        "head_size": 24,
    },
}  # fmt: skip
"""Name -> its ``config`` in model.yaml."""

MAPS = ("convnext", "efficientnet")
"""Those of convolutions, whose states are maps."""

VITS = tuple(name for name in SMALL_TOWERS if name not in MAPS)


def small_kind(name: str, **changes: Any) -> Tower:
    """What is known of one of ``SMALL_TOWERS``, with other sizes where ``changes`` say so."""
    table = {**SMALL_TOWERS[name], **changes}
    row = tower_class(table.pop("model_type"))
    return row(row.config_class(**table))
