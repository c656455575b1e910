"""What front-ends with a CLIP tower share: its patch states, its weights, and which of its layers nobody reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from ullava.errors import UserError
from ullava.modeling.pixels import CLIP_MEAN, CLIP_STD, normalise_u8
from ullava.modeling.positions import start_tower_positions
from ullava.modeling.strict_loading import CLIP_BESIDE, load_part, read_part
from ullava.modeling.vision.strategy import VisionStrategy, trains


class ClipFrontEnd(VisionStrategy):
    """A strategy that reads hidden state ``hidden_layer`` of a CLIP tower, without its class token.

    Raises UserError for a layer that the tower does not have.
    """

    def __init__(self, config: CLIPVisionConfig, hidden_layer: int) -> None:
        super().__init__()
        if not -config.num_hidden_layers - 1 <= hidden_layer <= config.num_hidden_layers:
            raise UserError(f"vision.hidden_layer {hidden_layer}: the tower has {config.num_hidden_layers} layers")
        self.hidden_layer = hidden_layer
        self.tower = CLIPVisionModel(config)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 or normalised float [I, 3, h, w] -> normalised as CLIP reads it, in the tower's dtype."""
        return normalise_u8(pixels, CLIP_MEAN, CLIP_STD, self.tower.embeddings.patch_embedding.weight.dtype)

    def patch_states(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised [I, 3, R, R] -> states [I, P, width]; only the layers that lead there run.

        Without gradient where the tower does not train.
        """
        tower = self.tower
        with torch.set_grad_enabled(trains(tower)):
            states = tower.pre_layrnorm(tower.embeddings(pixels))
            depth = self.hidden_layer % (len(tower.encoder.layers) + 1)
            for layer in tower.encoder.layers[:depth]:
                output = layer(states, attention_mask=None)
                states = output if isinstance(output, torch.Tensor) else output[0]
            return states[:, 1:]

    def unread(self) -> tuple[str, ...]:
        """The layers above the chosen hidden state, and the norm after the last."""
        depth = len(self.tower.encoder.layers)
        above = range(self.hidden_layer % (depth + 1), depth)
        return ("tower.post_layernorm.", *(f"tower.encoder.layers.{layer}." for layer in above))

    def load_pretrained(self, paths: Mapping[str, Path]) -> None:
        """A CLIP vision tower, by itself or in a whole CLIP; see VisionStrategy."""
        if "tower" in paths:
            weights = read_part(CLIPVisionModel, paths["tower"], beside=CLIP_BESIDE)
            load_part(self.tower, weights, paths["tower"])

    def start_afresh(self, pretrained: frozenset[str]) -> None:
        """The tower's position table; see ullava.modeling.positions."""
        if "tower" not in pretrained:
            start_tower_positions(self.tower.embeddings.position_embedding.weight)
