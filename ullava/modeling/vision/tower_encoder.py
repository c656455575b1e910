"""What vision encoders share that read one hidden state of a vision tower, whichever kind of tower it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from ullava.modeling.towers.table import tower_of
from ullava.modeling.towers.tower_contract import MapTower
from ullava.modeling.vision.strategy import VisionStrategy


class TowerVisionEncoder(VisionStrategy):
    """A strategy that reads hidden state ``vision_feature_layer`` of its tower: the patches, and no other token.

    ``tower`` is the network, ``kind`` what is known of it. With ``pyramid`` the maps of all its levels go out too, of
    the one pass that gives the patches. Raises UserError for a layer that the tower does not have.
    """

    def __init__(self, config: PreTrainedConfig, vision_feature_layer: int, *, pyramid: bool = False) -> None:
        super().__init__()
        self.kind = tower_of(config)
        self.kind.depth(vision_feature_layer)
        self.vision_feature_layer = vision_feature_layer
        self.pyramid_levels = self.kind.levels() if pyramid else ()
        self.tower = self.kind.build()

    @property
    def map_width(self) -> int:
        """The chosen hidden state's; see VisionStrategy."""
        return self.kind.width(self.vision_feature_layer)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 or normalized float [I, 3, h, w] -> normalized as the tower reads it, in its type."""
        return self.kind.normalize(self.tower, pixels)

    def patch_states(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalized [I, 3, R, R] -> states [I, P, width]; only the layers that lead there run.

        Without gradient where the tower does not train.
        """
        return self.kind.patch_states(self.tower, pixels, self.vision_feature_layer)

    def states_and_pyramid(self, pixels: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """``patch_states`` and, of the same pass, the map [I, C, h, w] of every level that goes out, finest first."""
        if not self.pyramid_levels or not isinstance(self.kind, MapTower):
            return self.patch_states(pixels), ()
        maps = self.kind.maps(self.tower, pixels, self._last_layer())
        states = maps[self.kind.depth(self.vision_feature_layer)].flatten(2).transpose(1, 2)
        return states, tuple(maps[level.layer] for level in self.pyramid_levels)

    def _last_layer(self) -> int:
        return max((level.layer for level in self.pyramid_levels), default=self.vision_feature_layer)

    def unread(self) -> tuple[str, ...]:
        """What the tower has beside the way to the chosen hidden state and the pyramid."""
        return tuple(f"tower.{name}" for name in self.kind.unread(self._last_layer()))

    def load_pretrained(self, paths: Mapping[str, Path]) -> None:
        """The tower, by itself or in a whole model of its kind; see VisionStrategy."""
        if "tower" in paths:
            self.kind.load(self.tower, paths["tower"])

    def init_new_weights(self, pretrained: frozenset[str]) -> None:
        """The tower's position table; see ullava.modeling.positions."""
        if "tower" not in pretrained:
            self.kind.start(self.tower)
