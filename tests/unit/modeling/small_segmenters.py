"""Whole segmenters of SAM 2's family at the smallest sizes that keep every part alive, and checkpoints of them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from tests.unit.modeling.conftest import build_small
from transformers import (
    EdgeTamConfig,
    EdgeTamModel,
    EdgeTamVideoConfig,
    EdgeTamVideoModel,
    Sam2Config,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    Sam3TrackerVideoConfig,
    Sam3TrackerVideoModel,
)

SIDE = 64
WIDTH = 128
"""Of maps with a memory: the least that transformers' own tracker takes, twice the memory's."""
PROMPT = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16}
DECODER = {"hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 4, "iou_head_hidden_dim": 32}
MAPS = [[16, 16], [8, 8], [4, 4]]
HIERA = {
    "hidden_size": 8,
    "embed_dim_per_stage": [8, 16, 24, 32],
    "blocks_per_stage": [1, 1, 2, 1],
    "num_attention_heads_per_stage": [1, 1, 2, 2],
    "window_size_per_stage": [4, 2, 2, 2],
    "global_attention_blocks": [3],
    "window_positional_embedding_background_size": [4, 4],
}
REPVIT = {
    "model_type": "timm_wrapper",
    "architecture": "repvit_m1",
    "num_classes": 0,
    "label_names": [],
    "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
}
SAM3_VIT = {
    "model_type": "sam3_vit_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 16,
    "window_size": 2,
    "global_attn_indexes": [1],
    "pretrain_image_size": 32,
}
ENCODERS: dict[str, dict[str, Any]] = {
    "sam2": {
        "backbone_config": {"model_type": "sam2_hiera_det_model", **HIERA},
        "backbone_channel_list": [32, 24, 16, 8],
    },
    "edgetam": {"model_type": "edgetam_vision_model", "backbone_config": REPVIT},
    "sam3_tracker": {"model_type": "sam3_vision_model", "backbone_config": SAM3_VIT},
}
MEMORY = {
    "image_size": SIDE,
    "memory_attention_hidden_size": WIDTH,
    "memory_attention_num_layers": 1,
    "memory_encoder_hidden_size": WIDTH,
    "memory_encoder_output_channels": 64,
    "mask_downsampler_embed_dim": WIDTH,
    "memory_fuser_embed_dim": WIDTH,
    "memory_fuser_intermediate_dim": 32,
    "memory_attention_rope_feat_sizes": [4, 4],
    "num_maskmem": 3,
    "max_object_pointers_in_encoder": 4,
}
MEMORIES: dict[str, dict[str, Any]] = {
    "sam2": MEMORY,
    "sam3_tracker": MEMORY,
    "edgetam": MEMORY
    | {
        "memory_attention_rope_k_sizes": [2, 2],
        "perceiver_resampler_num_latents": 3,
        "perceiver_resampler_num_latents_2d": 4,
        "perceiver_resampler_mlp_intermediate_size": 32,
    },
}
"""What a network for videos has beside, with a memory that a short clip fills: two recent frames, three pointers."""
CLASSES: dict[str, tuple[Any, Any, Any, Any]] = {
    "sam2": (Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel),
    "edgetam": (EdgeTamConfig, EdgeTamModel, EdgeTamVideoConfig, EdgeTamVideoModel),
    "sam3_tracker": (Sam3TrackerConfig, Sam3TrackerModel, Sam3TrackerVideoConfig, Sam3TrackerVideoModel),
}
"""Kind of mask head -> config and network for images, and those for videos."""


def has_timm() -> bool:
    """Whether EdgeTAM's encoder can be built here."""
    return find_spec("timm") is not None


def sizes(kind: str) -> dict[str, Any]:
    """The config of a small segmenter, as a table; ``kind`` with ``_video`` has a memory."""
    image_kind = kind.removesuffix("_video")
    table = {
        "vision_config": {**ENCODERS[image_kind], "backbone_feature_sizes": MAPS, "fpn_hidden_size": 32},
        "prompt_encoder_config": dict(PROMPT),
        "mask_decoder_config": dict(DECODER),
    }
    if kind == image_kind:
        return table
    table["vision_config"]["fpn_hidden_size"] = WIDTH
    for part in ("prompt_encoder_config", "mask_decoder_config"):
        table[part]["hidden_size"] = WIDTH
    return table | MEMORIES[image_kind]


def write_segmenter(kind: str, folder: Path, *, video: bool = False, seed: int = 3) -> Any:
    """Save a small network of transformers with random weights, none of them at its usual first value; return it."""
    torch.manual_seed(seed)
    image_config, image_network, video_config, video_network = CLASSES[kind]
    config = video_config(**sizes(f"{kind}_video")) if video else image_config(**sizes(kind))
    network = (video_network if video else image_network)(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(
                torch.randn_like(parameter) * (0.2 if parameter.dim() < 2 else 0.6 * parameter[0].numel() ** -0.5)
            )
    network.save_pretrained(folder)
    return network


def head(kind: str, part: dict[str, Any]) -> str:
    """The override that chooses a mask head with an encoder of its own; ``part``: its path, or its config."""
    table = yaml.safe_dump({"kind": kind, "encoder": "own", kind: part}, default_flow_style=True, width=10_000)
    return f"mask={table.strip()}"


def build_segmenter(kind: str, part: dict[str, Any] | None = None, *overrides: str) -> tuple[Any, Any]:
    """Model and processor with a small mask head of ``kind``; without ``part`` afresh."""
    return build_small((head(kind, {"config": sizes(kind)} if part is None else part), *overrides))
