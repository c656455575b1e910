"""CLIP's vision tower: a class token, a norm before the first layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from ullava.modeling.pixels import CLIP_MEAN, CLIP_STD
from ullava.modeling.towers.tower_contract import VitTower


class ClipTower(VitTower):
    """OpenAI's CLIP and what is built like it. The class token is left out."""

    config_class = CLIPVisionConfig
    network_class = CLIPVisionModel
    image_mean, image_std = CLIP_MEAN, CLIP_STD
    beside = ("text_model.*", "text_projection.*", "visual_projection.*", "logit_scale")
    stem_name = "embeddings.patch_embedding"
    layers_name = "encoder.layers"
    table_name = "embeddings.position_embedding.weight"
    never_read = ("post_layernorm.",)
    ahead = 1
    table_scale = 1.0  # the norm behind it brings the sum to size

    def embed(self, network: Any, pixels: Tensor) -> Tensor:
        """Class token and patches with their positions, normed."""
        states: Tensor = network.pre_layrnorm(network.embeddings(pixels))
        return states
