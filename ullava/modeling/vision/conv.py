"""ConvNeXt vision encoder with a fifth stage (ConvLLaVA, arXiv 2405.15738): few tokens for many pixels, any aspect
ratio.

The last map, read row by row, is projected; no class token, no final norm. With five stages a token is 64 pixels wide:
768 x 768 gives 144 tokens, 1536 x 1536 gives 576 (arXiv 2405.15738).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedConfig

from ullava.errors import UserError
from ullava.examples import TokenCount, Views
from ullava.geometry import View, plan_square
from ullava.modeling.pixels import CLIP_MEAN, render_view
from ullava.modeling.vision.clip_mlp import ASPECTS, build_projector, pool_frames
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
    run_by_shape,
)
from ullava.modeling.vision.tower_encoder import TowerVisionEncoder

VIEW = "base"
NAME = "conv"
LAST_MAP = -1
"""The tower's hidden state that becomes tokens, whatever ``vision.vision_feature_layer`` says."""
OVERRIDES = ("resolution",)
"""``resolution``: another R, in pixels, for this question."""

MEAN_COLOR = (int(255 * CLIP_MEAN[0]), int(255 * CLIP_MEAN[1]), int(255 * CLIP_MEAN[2]))
"""What padding is filled with, as published: nearly zero once normalized."""


def fit_any(orig_wh: tuple[int, int], side: int, stride: int, most: int) -> tuple[int, int]:
    """Width and height, in multiples of ``stride``, at which an image of ``orig_wh`` keeps nearly its shape.

    The short side becomes ``side`` unless that gives more than ``most`` tokens; at least one token each way.
    """
    shortest = min(orig_wh)
    scale = min(side / shortest, (most * stride**2 / (orig_wh[0] * orig_wh[1])) ** 0.5)
    columns, rows = (max(1, round(length * scale / stride)) for length in orig_wh)
    while columns * rows > most and max(columns, rows) > 1:
        columns, rows = (columns - 1, rows) if columns >= rows else (columns, rows - 1)
    return columns * stride, rows * stride


class ConvPreprocessor:
    """A square of side R (``pad``, ``stretch``, ``crop``), or any multiple of the stride each way (``any``).

    ``area``: with ``any``, how many times the square's tokens an image may give. ``video_side``: side of the square
    of each frame; ``video``: see ConvConfig.
    """

    view_names: tuple[str, ...] = (VIEW,)
    reads_text = False

    def __init__(
        self,
        side: int,
        stride: int,
        image_aspect_ratio: str,
        *,
        area: float,
        video_side: int,
        video: Literal["frames", "pooled"],
    ) -> None:
        for what, length in (("image_size", side), ("video_side", video_side)):
            if length % stride or length < stride:
                raise UserError(
                    f"vision strategy {NAME}: {what} {length} is no multiple of the tower's stride {stride}"
                )
        self.side = side
        self.stride = stride
        self.image_aspect_ratio = image_aspect_ratio
        self.area = area
        self.video_side = video_side
        self.video = video

    def preprocess(self, image_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN) -> VisionInputs:
        """One view ``base``; a budget below its tokens lowers the resolution. See VisionPreprocessor."""
        refuse_unknown(notes.overrides, OVERRIDES, NAME)
        height, width = image_rgb_u8.shape[:2]
        side = self._side(notes.overrides)
        wanted = self._plan((width, height), side, None)
        view = self._plan((width, height), side, notes.budget)
        shrunk = view.size_wh != wanted.size_wh
        grid = (view.size_wh[1] // self.stride, view.size_wh[0] // self.stride)
        pixels = self._render(image_rgb_u8, view)
        count = TokenCount(grid[0] * grid[1], grid[0] * grid[1])
        variant = f"|{view.size_wh[0]}x{view.size_wh[1]}" if view.size_wh != (self.side, self.side) else ""
        return VisionInputs({VIEW: pixels}, {VIEW: view}, count, grid, variant, shrunk)

    def preprocess_video(self, frames_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN) -> VideoInputs:
        """Each frame as a square, all its tokens or means of them; see VisionPreprocessor."""
        refuse_unknown(notes.overrides, OVERRIDES, NAME)
        side = self._side(notes.overrides) if notes.overrides else self.video_side
        pixels = np.stack([self._render(frame, self._square(frame, side)) for frame in frames_rgb_u8])
        frames, tokens = len(pixels), (side // self.stride) ** 2
        total = frames * tokens if self.video == "frames" else frames + tokens
        return VideoInputs({VIEW: pixels}, TokenCount(total, total), f"|{side}" if notes.overrides else "")

    def _side(self, overrides: Mapping[str, Any]) -> int:
        side = overrides.get("resolution", self.side)
        if not isinstance(side, int) or side < self.stride or side % self.stride:
            raise UserError(f"vision strategy {NAME}: resolution {side} is no multiple of {self.stride} pixels")
        return side

    def _plan(self, orig_wh: tuple[int, int], side: int, budget: int | None) -> View:
        """Lay an image of ``orig_wh`` into its view, of at most ``budget`` tokens if that leaves any."""
        whole = (side // self.stride) ** 2
        if self.image_aspect_ratio == "any":
            most = max(1, round(whole * self.area))
            width, height = fit_any(orig_wh, side, self.stride, most if budget is None else min(most, budget))
            scale = (width / orig_wh[0], height / orig_wh[1])
            return View("stretch", orig_wh, scale, (0.0, 0.0), (width, height))
        if budget is not None and budget < whole:
            side = self.stride * int(budget**0.5)
        return plan_square(ASPECTS[self.image_aspect_ratio], orig_wh, side)

    def _square(self, frame: NDArray[np.uint8], side: int) -> View:
        kind = "pad_center" if self.image_aspect_ratio == "any" else ASPECTS[self.image_aspect_ratio]
        return plan_square(kind, (frame.shape[1], frame.shape[0]), side)

    @staticmethod
    def _render(image_rgb_u8: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
        """Pixels uint8 [3, h, w], padded first and resized by Pillow, as published."""
        return render_view(image_rgb_u8, view, mode="pillow", fill=MEAN_COLOR)


class ConvStrategy(TowerVisionEncoder):
    """The last map of a tower that sees images of any size, projected to width D; images of one size run together."""

    def __init__(
        self, config: PreTrainedConfig, *, projector: str, width_out: int, video: Literal["frames", "pooled"]
    ) -> None:
        super().__init__(config, LAST_MAP)
        self.projector = build_projector(projector, self.kind.width(LAST_MAP), width_out)
        self.video = video

    def encode(self, views: Views, context: EncodeContext = NO_CONTEXT) -> VisionOutput:
        """uint8 or normalized float [3, h, w] for each image -> tokens [sum(h / 64 * w / 64), D] with five stages."""
        refuse_unknown(context.overrides, OVERRIDES, NAME)
        states = run_by_shape([pixels[None] for pixels in views[VIEW]], self.encode_states)
        counts = tuple(state.shape[1] for state in states)
        rows = [pixels.shape[-2] // self.kind.stride(LAST_MAP) for pixels in views[VIEW]]
        maps = tuple(as_maps(state, height)[0] for state, height in zip(states, rows, strict=True))
        return VisionOutput(self.projector(torch.cat([state[0] for state in states])), counts, maps=maps)

    def encode_video(self, views: Views, context: EncodeContext = NO_CONTEXT) -> VisionOutput:
        """uint8 or normalized float [T, 3, h, w] for each video -> all tokens of all frames, or their means."""
        refuse_unknown(context.overrides, OVERRIDES, NAME)
        states = run_by_shape(list(views[VIEW]), self.encode_states)
        if self.video == "pooled":
            states = [pool_frames(clip[None])[0] for clip in states]
        else:
            states = [clip.flatten(0, 1) for clip in states]
        return VisionOutput(self.projector(torch.cat(states)), tuple(len(clip) for clip in states))

    def encode_states(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 or normalized float [I, 3, h, w] -> states [I, P, C] of the last map, row by row."""
        return self.patch_states(self.normalize(pixels))

    def parts(self) -> tuple[VisionPart, ...]:
        """Every stage of the tower by its number from 1 (the stem goes with the first), and the projector."""
        stages = [
            VisionPart(name, tuple(f"tower.{prefix}" for prefix in prefixes), "tower")
            for name, prefixes in self.kind.parts().items()
        ]
        return (*stages, VisionPart("vision projector", ("",), "projector"))
