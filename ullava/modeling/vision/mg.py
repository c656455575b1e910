"""Vision encoder of MG-LLaVA: fused tokens of a low and a high resolution, then a token for each box (arXiv
2406.17770).

One view travels, the high-resolution square; the low one is made of its normalized pixels, as published. P fused tokens
on the grid of both, k object tokens in the order of the boxes' scores: P + k, known before anything is encoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import ConvNextConfig, PreTrainedConfig

from ullava.errors import UserError
from ullava.examples import TokenCount, Views
from ullava.geometry import View, plan_view
from ullava.geometry.patches import patch_grid_side
from ullava.modeling.pixels import render_view
from ullava.modeling.towers.convnext import ConvNextTower
from ullava.modeling.vision.clip_mlp import build_projector, merge_patches
from ullava.modeling.vision.mg_boxes import boxes_on_view, released_boxes
from ullava.modeling.vision.mg_fusion import ConvGateFusion
from ullava.modeling.vision.mg_pooling import ObjectTokens
from ullava.modeling.vision.mg_pyramid import ConvNextPyramid
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
)
from ullava.modeling.vision.tower_encoder import TowerVisionEncoder
from ullava.structures import DetectedBoxes

PAD_COLOR = (122, 116, 104)
"""CLIP's mean color in whole gray levels, rounded down; the published padding."""

VIEW = "base"
OVERRIDES = ("max_boxes",)
NO_BOXES = DetectedBoxes(np.zeros((0, 4)), np.zeros(0), ())


class MgPreprocessor:
    """Center-padded square of side ``high``; an image with k boxes gives P + k tokens.

    A video gives, for each frame, P / ``frame_pool``^2 tokens and one for each of its boxes. ``box_rule``: ``top``
    keeps the ``max_boxes`` best of those that are not of one class and one place; ``released`` is the published rule,
    with its cap by class and its filler box.
    """

    view_names: tuple[str, ...] = (VIEW, "boxes")
    reads_text = False

    def __init__(self, side: int, patch: int, settings: Mapping[str, Any]) -> None:
        self.grid_side = patch_grid_side(side, patch, 1)
        self.high = self.grid_side * ConvNextTower(ConvNextConfig(**settings["pyramid"])).stride(-1)
        self.max_boxes = int(settings["max_boxes"])
        self.box_rule = str(settings["box_rule"])
        self.frame_pool = int(settings["frame_pool"])
        if self.grid_side % self.frame_pool:
            raise UserError(
                f"vision.mg.frame_pool {self.frame_pool}: a grid of {self.grid_side} x {self.grid_side} patches cannot "
                "be joined so"
            )

    def preprocess(self, image_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN) -> VisionInputs:
        """The square view and the boxes on it; see VisionPreprocessor. A small budget leaves out the last boxes."""
        limit = self._limit(notes.overrides)
        view, pixels = self._square(image_rgb_u8)
        boxes = self._boxes(notes.boxes, view, limit)
        tokens = self.grid_side**2
        room = len(boxes) if notes.budget is None else max(notes.budget - tokens, 0)
        kept = boxes[:room]
        total = tokens + len(kept)
        return VisionInputs(
            views={VIEW: pixels, "boxes": kept},
            geometry={VIEW: view},
            count=TokenCount(total, total),
            grid_hw=None if len(kept) else (self.grid_side, self.grid_side),
            variant=_name_of(kept),
            shrunk=len(kept) < len(boxes),
        )

    def preprocess_video(self, frames_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN) -> VideoInputs:
        """Each frame as an image; see VisionPreprocessor."""
        limit = self._limit(notes.overrides)
        found = notes.frame_boxes or (None,) * len(frames_rgb_u8)
        if len(found) != len(frames_rgb_u8):
            raise UserError(f"boxes of {len(found)} frames for a video of {len(frames_rgb_u8)}")
        seen = [self._square(frame) for frame in frames_rgb_u8]
        boxes = [self._boxes(each, view, limit) for each, (view, _) in zip(found, seen, strict=True)]
        total = len(seen) * (self.grid_side // self.frame_pool) ** 2 + sum(len(rows) for rows in boxes)
        joined = np.concatenate(boxes) if boxes else np.zeros((0, 4), np.float32)
        views: dict[str, NDArray[Any]] = {
            VIEW: np.stack([pixels for _, pixels in seen]),
            "boxes": joined,
            "box_counts": np.asarray([len(rows) for rows in boxes], dtype=np.int64),
        }
        return VideoInputs(views, TokenCount(total, total), _name_of(joined))

    def _limit(self, overrides: Mapping[str, Any]) -> int:
        refuse_unknown(overrides, OVERRIDES, "mg")
        limit = overrides.get("max_boxes", self.max_boxes)
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
            raise UserError(f"max_boxes has to be a whole number from 0, not {limit!r}")
        return limit

    def _square(self, image_rgb_u8: NDArray[np.uint8]) -> tuple[View, NDArray[np.uint8]]:
        view = plan_view("pad_center", (image_rgb_u8.shape[1], image_rgb_u8.shape[0]), self.high)
        return view, render_view(image_rgb_u8, view, mode="pillow", fill=PAD_COLOR)

    def _boxes(self, found: DetectedBoxes | None, view: View, limit: int) -> NDArray[np.float32]:
        """Boxes float32 [k, 4] in pixels of the view, the best first."""
        given = found or NO_BOXES
        if self.box_rule == "released":
            boxes, _ = released_boxes(
                given.boxes_xyxy_px, given.scores, given.labels, view.orig_wh, self.high, limit=limit
            )
        else:
            boxes, _ = boxes_on_view(given.boxes_xyxy_px, given.scores, given.labels, view, limit)
        return boxes.astype(np.float32)


def _name_of(boxes: NDArray[np.float32]) -> str:
    """What tells one set of boxes from another; nothing where there are none."""
    return f"|boxes {hashlib.blake2b(boxes.tobytes(), digest_size=8).hexdigest()}" if len(boxes) else ""


class Mg(TowerVisionEncoder):
    """The tower's states of the low view fused with the coarsest map of a ConvNeXt on the high one; tokens of boxes."""

    def __init__(
        self,
        config: PreTrainedConfig,
        *,
        vision_feature_layer: int,
        projector: str,
        width_out: int,
        settings: Mapping[str, Any],
    ) -> None:
        super().__init__(config, vision_feature_layer)
        self.pyramid = ConvNextPyramid(ConvNextConfig(**settings["pyramid"]))
        self.low = self.kind.side
        self.high = self.kind.grid_side(vision_feature_layer) * self.pyramid.stride
        self.frame_pool = int(settings["frame_pool"])
        channels = self.pyramid.channels
        self.fusion = ConvGateFusion(settings["fusion"], self.kind.width(vision_feature_layer), channels[-1])
        self.projector = build_projector(projector, self.fusion.width_out, width_out)
        self.objects = ObjectTokens(settings["pooling"], channels, width_out, embed_boxes=settings["embed_boxes"])

    def encode(self, views: Views, context: EncodeContext = NO_CONTEXT) -> VisionOutput:
        """uint8 or normalized float [I, 3, R, R] and boxes [k_i, 4] -> tokens [sum(P + k_i), D]."""
        refuse_unknown(context.overrides, OVERRIDES, "mg")
        pixels = torch.stack(list(views[VIEW]))
        fused, objects, gate = self._see(pixels, list(views["boxes"]), pool=1)
        tokens = self.projector(fused)
        pieces = [torch.cat(pair) for pair in zip(tokens, objects, strict=True)]
        told = {"boxes": tuple(len(found) for found in objects), "gate": gate}
        counts = tuple(len(piece) for piece in pieces)
        return VisionOutput(torch.cat(pieces), counts, maps=as_maps(fused), diagnostics=told)

    def encode_video(self, views: Views, context: EncodeContext = NO_CONTEXT) -> VisionOutput:
        """uint8 or normalized float [V, T, 3, R, R] -> for each frame its pooled tokens, then those of its boxes."""
        refuse_unknown(context.overrides, OVERRIDES, "mg")
        clips = torch.stack(list(views[VIEW]))
        boxes = [
            rows
            for joined, counts in zip(views["boxes"], views["box_counts"], strict=True)
            for rows in joined.split(counts.tolist())
        ]
        fused, objects, gate = self._see(clips.flatten(0, 1), boxes, pool=self.frame_pool)
        frames = [torch.cat(pair) for pair in zip(self.projector(fused), objects, strict=True)]
        length = clips.shape[1]
        counts = tuple(sum(map(len, frames[start : start + length])) for start in range(0, len(frames), length))
        return VisionOutput(torch.cat(frames), counts, diagnostics={"boxes": tuple(map(len, objects)), "gate": gate})

    def _see(
        self, pixels: torch.Tensor, boxes: Sequence[torch.Tensor], pool: int
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor | None]:
        """Fused states [I, P / pool^2, width], object tokens [k_i, D] of each image, the gates [I]."""
        high = self.pyramid.normalize(pixels)
        own = high if self._same_normalization() else self.normalize(pixels)
        low = functional.interpolate(own, (self.low, self.low), mode="bilinear", align_corners=False)
        maps = self.pyramid(high)
        fused, gate = self.fusion(self.patch_states(low), maps[-1])
        if pool > 1:
            fused = merge_patches(fused, pool).unflatten(2, (pool * pool, -1)).mean(dim=2)
        objects = self.objects(maps, boxes, self.high)
        return fused, objects, None if gate is None else gate.detach()[:, 0]

    @property
    def map_width(self) -> int:
        """That of the fused states; see VisionStrategy."""
        return self.fusion.width_out

    def _same_normalization(self) -> bool:
        """Whether tower and pyramid read the same normalized pixels, which are then made once."""
        one, other = self.kind, self.pyramid.kind
        return (one.image_mean, one.image_std) == (other.image_mean, other.image_std)

    def parts(self) -> tuple[VisionPart, ...]:
        """The two towers, which the published training never touches, and what stands between them and the words."""
        return (
            VisionPart("vision tower", ("tower.",), "tower"),
            VisionPart("vision pyramid", ("pyramid.",), "tower"),
            VisionPart("vision fusion", ("fusion.",), "projector"),
            VisionPart("object projector", ("objects.",), "projector"),
            VisionPart("vision projector", ("projector.",), "projector"),
        )

    def load_pretrained(self, paths: Mapping[str, Path]) -> None:
        """``tower``: a vision tower; ``pyramid``: a ConvNeXt of transformers; see VisionStrategy."""
        super().load_pretrained(paths)
        if "pyramid" in paths:
            self.pyramid.load(paths["pyramid"])

    def init_new_weights(self, pretrained: frozenset[str]) -> None:
        """The published start of the fusion, which leaves the low-resolution states as they are; the tower's table."""
        super().init_new_weights(pretrained)
        self.fusion.start()
