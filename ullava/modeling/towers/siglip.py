"""SigLIP's vision tower, and SigLIP 2's at a fixed resolution, which is the same network.

No class token and no norm before the first layer. The attention-pooling head, which tells what the whole image shows,
is built where the config has one (``vision_use_head``) and read by nothing here.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from ullava.modeling.towers.tower_contract import VitTower, without

HEAD = "head."


class SiglipTower(VitTower):
    """Patches alone; pixels between -1 and 1."""

    config_class = SiglipVisionConfig
    network_class = SiglipVisionModel
    image_mean = image_std = (0.5, 0.5, 0.5)
    beside = ("text_model.*", "logit_scale", "logit_bias", f"{HEAD}*")
    stem_name = "embeddings.patch_embedding"
    layers_name = "encoder.layers"
    table_name = "embeddings.position_embedding.weight"
    never_read = ("post_layernorm.", HEAD)

    def fitted(self, network: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Without the head where ``network`` has none; see VitTower."""
        return super().fitted(network, weights if self.config.vision_use_head else without(weights, HEAD))
