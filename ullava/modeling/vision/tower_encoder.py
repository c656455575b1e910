"""What vision encoders share that read one hidden state of a vision tower, whichever kind of tower it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from ullava.modeling.towers.table import tower_of
from ullava.modeling.vision.strategy import VisionStrategy


class TowerVisionEncoder(VisionStrategy):
    """A strategy that reads hidden state ``vision_feature_layer`` of its tower: the patches, and no other token.

    ``tower`` is the network, ``kind`` what is known of it. Raises UserError for a layer that the tower does not have.
    """

    def __init__(self, config: PreTrainedConfig, vision_feature_layer: int) -> None:
        super().__init__()
        self.kind = tower_of(config)
        self.kind.depth(vision_feature_layer)
        self.vision_feature_layer = vision_feature_layer
        self.tower = self.kind.build()

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 or normalized float [I, 3, h, w] -> normalized as the tower reads it, in its type."""
        return self.kind.normalize(self.tower, pixels)

    def patch_states(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalized [I, 3, R, R] -> states [I, P, width]; only the layers that lead there run.

        Without gradient where the tower does not train.
        """
        return self.kind.patch_states(self.tower, pixels, self.vision_feature_layer)

    def unread(self) -> tuple[str, ...]:
        """What the tower has beside the way to the chosen hidden state."""
        return tuple(f"tower.{name}" for name in self.kind.unread(self.vision_feature_layer))

    def load_pretrained(self, paths: Mapping[str, Path]) -> None:
        """The tower, by itself or in a whole model of its kind; see VisionStrategy."""
        if "tower" in paths:
            self.kind.load(self.tower, paths["tower"])

    def init_new_weights(self, pretrained: frozenset[str]) -> None:
        """The tower's position table; see ullava.modeling.positions."""
        if "tower" not in pretrained:
            self.kind.start(self.tower)
