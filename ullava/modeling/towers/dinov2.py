"""DINOv2's vision tower, with and without register tokens (transformers has a class for each)."""

from __future__ import annotations

from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from ullava.modeling.pixels import IMAGENET_MEAN, IMAGENET_STD
from ullava.modeling.towers.tower_contract import VitTower


class Dinov2Tower(VitTower):
    """The class token is left out; the token that stood for hidden patches in pretraining is read by nothing."""

    config_class = Dinov2Config
    network_class = Dinov2Model
    image_mean, image_std = IMAGENET_MEAN, IMAGENET_STD
    beside = ("classifier.*",)
    stem_name = "embeddings.patch_embeddings.projection"
    layers_name = "encoder.layer"
    table_name = "embeddings.position_embeddings"
    never_read = ("layernorm.", "embeddings.mask_token")
    ahead = 1


class Dinov2RegistersTower(Dinov2Tower):
    """Register tokens stand behind the class token and are left out with it; they have no positions."""

    config_class = Dinov2WithRegistersConfig
    network_class = Dinov2WithRegistersModel
    antialias = True

    @property
    def extra(self) -> int:
        """The class token and the registers."""
        return self.ahead + int(self.config.num_register_tokens)
