"""A model whose mask head reads the vision tower's maps, at the smallest sizes that keep every part alive."""

from __future__ import annotations

from typing import Any

from tests.unit.modeling.conftest import build_small

TOWER = (
    "vision.tower={config: {model_type: efficientnet_lite, image_size: 64, stem_size: 8, "
    "hidden_sizes: [8, 8, 12, 16, 16], depths: [1, 1, 1, 2, 1], strides: [1, 2, 2, 2, 2], "
    "kernel_sizes: [3, 3, 5, 3, 3], expand_ratios: [1, 2, 2, 2, 2], head_size: 24}}"
)
CONVNEXT = (
    "vision.tower={config: {model_type: convnext, image_size: 64, hidden_sizes: [8, 12, 16, 16], depths: [1, 1, 1, 1], "
    "layer_scale_init_value: 1.0}}"
)
HEAD = (
    "mask={kind: sam2, encoder: vision, sam2: {config: {hidden_size: 32, mlp_dim: 48, num_attention_heads: 4, "
    "iou_head_hidden_dim: 32}}}"
)


def build_sam2(*overrides: str, tower: str = TOWER) -> tuple[Any, Any]:
    """Model and processor with a fresh mask head ``sam2`` on ``tower``."""
    return build_small((tower, "vision.vision_feature_layer=-1", HEAD, *overrides))
