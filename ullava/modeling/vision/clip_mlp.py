"""Plain vision encoder of u-LLaVA and LLaVA: one square view, patch states of one layer of its tower, a projector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedConfig

from ullava.errors import UserError
from ullava.examples import TokenCount, Views
from ullava.geometry import ViewKind, plan_square
from ullava.geometry.patches import patch_grid_side
from ullava.modeling.pixels import render_view
from ullava.modeling.vision.strategy import (
    NO_CONTEXT,
    PLAIN,
    EncodeContext,
    ItemNotes,
    VideoInputs,
    VisionInputs,
    VisionOutput,
    VisionPart,
    as_maps,
    refuse_unknown,
    stacked,
)
from ullava.modeling.vision.tower_encoder import TowerVisionEncoder

ASPECTS: Mapping[str, ViewKind] = {"pad": "pad_center", "stretch": "stretch", "crop": "short_side"}
"""``image_aspect_ratio`` in model.yaml -> kind of view."""

PAD_COLOR = 255  # white, as u-LLaVA pads
VIEW = "base"
OVERRIDES: tuple[str, ...] = ()


class ClipMlpPreprocessor:
    """Square view of side R; an image gives P = (R / patch / merge)^2 tokens, a video of T frames T n^2 + P.

    n is ``frame_grid`` (ullava.config.vision.ClipMlpConfig).
    """

    view_names: tuple[str, ...] = (VIEW,)
    reads_text = False

    def __init__(
        self, side: int, patch: int, image_aspect_ratio: str, spatial_merge_size: int = 1, frame_grid: int = 1
    ) -> None:
        self.side = side
        self.frame_grid = frame_grid
        self.image_aspect_ratio = image_aspect_ratio
        self.grid_side = patch_grid_side(side, patch, spatial_merge_size)
        self.num_tokens = self.grid_side**2

    def preprocess(self, image_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN) -> VisionInputs:
        """Bicubic resize into the square; see VisionPreprocessor."""
        refuse_unknown(notes.overrides, OVERRIDES, "clip_mlp")
        height, width = image_rgb_u8.shape[:2]
        view = plan_square(ASPECTS[self.image_aspect_ratio], (width, height), self.side)
        pixels = render_view(image_rgb_u8, view, mode="bicubic", fill=PAD_COLOR)
        count = TokenCount(self.num_tokens, self.num_tokens)
        return VisionInputs({VIEW: pixels}, {VIEW: view}, count, (self.grid_side, self.grid_side))

    def preprocess_video(self, frames_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN) -> VideoInputs:
        """Each frame as an image; see VisionPreprocessor."""
        refuse_unknown(notes.overrides, OVERRIDES, "clip_mlp")
        pixels = np.stack([self.preprocess(frame).views[VIEW] for frame in frames_rgb_u8])
        total = len(pixels) * self.frame_grid**2 + self.num_tokens
        return VideoInputs({VIEW: pixels}, TokenCount(total, total))


def build_projector(kind: str, width_in: int, width_out: int) -> nn.Module:
    """``linear``: one layer; ``mlp2x``: two with an exact GELU between (u-LLaVA's and LLaVA-1.5's projectors)."""
    if kind == "linear":
        return nn.Linear(width_in, width_out)
    return nn.Sequential(nn.Linear(width_in, width_out), nn.GELU(), nn.Linear(width_out, width_out))


def merge_patches(states: torch.Tensor, spatial_merge_size: int) -> torch.Tensor:
    """Join m x m neighbors of a square grid, rows first: [I, P, D] -> [I, P / m^2, m^2 D]; m is the merge size."""
    if spatial_merge_size == 1:
        return states
    side = round(states.shape[1] ** 0.5) // spatial_merge_size
    grid = states.unflatten(1, (side, spatial_merge_size, side, spatial_merge_size))
    return grid.permute(0, 1, 3, 2, 4, 5).flatten(3, 5).flatten(1, 2)


def pool_frames(states: torch.Tensor, frame_grid: int = 1) -> torch.Tensor:
    """Tokens of videos from their frames' patches, [V, T, P, D] -> [V, T n^2 + P, D] for ``frame_grid`` n.

    First n x n temporal tokens for each frame, rows first, the means of the patches in its fields; then a spatial token
    for each patch, its mean over the frames. At n = 1 as published (Video-ChatGPT).
    """
    if frame_grid == 1:
        return torch.cat([states.mean(dim=2), states.mean(dim=1)], dim=1)
    field = round(states.shape[2] ** 0.5) // frame_grid
    grid = states.unflatten(2, (frame_grid, field, frame_grid, field))
    return torch.cat([grid.mean(dim=(3, 5)).flatten(1, 3), states.mean(dim=1)], dim=1)


class ClipMlp(TowerVisionEncoder):
    """Hidden state ``vision_feature_layer`` of the tower, patches alone, projected to width D."""

    def __init__(
        self,
        config: PreTrainedConfig,
        *,
        vision_feature_layer: int,
        projector: str,
        width_out: int,
        spatial_merge_size: int = 1,
        frame_grid: int = 1,
        pyramid: bool = False,
    ) -> None:
        super().__init__(config, vision_feature_layer, pyramid=pyramid)
        grid = self.kind.grid_side(vision_feature_layer)
        if grid % spatial_merge_size:
            raise UserError(
                f"vision.spatial_merge_size {spatial_merge_size}: the tower's grid of {grid} x {grid} patches cannot "
                "be joined so"
            )
        joined = grid // spatial_merge_size
        if joined % frame_grid:
            raise UserError(
                f"vision.clip_mlp.frame_grid {frame_grid}: a grid of {joined} x {joined} tokens cannot be cut so"
            )
        self.spatial_merge_size = spatial_merge_size
        self.frame_grid = frame_grid
        self.projector = build_projector(
            projector, self.kind.width(vision_feature_layer) * spatial_merge_size**2, width_out
        )

    def encode(self, views: Views, context: EncodeContext = NO_CONTEXT) -> VisionOutput:
        """uint8 or normalized float [I, 3, R, R] -> tokens [I * P, D]."""
        refuse_unknown(context.overrides, OVERRIDES, "clip_mlp")
        states, pyramid = self.states_and_pyramid(self.normalize(stacked(views[VIEW])))
        made = self._project(merge_patches(states, self.spatial_merge_size))
        return replace(made, pyramid=pyramid, maps=as_maps(states))

    def encode_video(self, views: Views, context: EncodeContext = NO_CONTEXT) -> VisionOutput:
        """uint8 or normalized float [V, T, 3, R, R] -> tokens [V * (T n^2 + P), D], pooled, then projected."""
        refuse_unknown(context.overrides, OVERRIDES, "clip_mlp")
        clips = stacked(views[VIEW])
        states = merge_patches(self.patch_states(self.normalize(clips.flatten(0, 1))), self.spatial_merge_size)
        return self._project(pool_frames(states.unflatten(0, clips.shape[:2]), self.frame_grid))

    def _project(self, states: torch.Tensor) -> VisionOutput:
        tokens = self.projector(states)
        return VisionOutput(tokens.flatten(0, 1), (tokens.shape[1],) * tokens.shape[0])

    def parts(self) -> tuple[VisionPart, ...]:
        """Tower and projector; a tower whose maps go to a mask head in the parts that it has."""
        if self.pyramid_levels:
            stages = self.kind.parts().items()
            tower = [
                VisionPart(name, tuple(f"tower.{start}" for start in prefixes), "tower") for name, prefixes in stages
            ]
            return (*tower, VisionPart("vision projector", ("",), "projector"))
        return (VisionPart("vision tower", ("tower.",), "tower"), VisionPart("vision projector", ("",), "projector"))
