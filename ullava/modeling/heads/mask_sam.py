"""``[SEG]`` state -> SAM prompt token -> SAM mask decoder (u-LLaVA, sections 3.1-3.2), on transformers' SamModel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import SamConfig, SamModel

from ullava.examples import HeadImages
from ullava.geometry import plan_view, resized_hw
from ullava.geometry.mask_resize import covered_lowres, to_original
from ullava.modeling.cpu import sam as fast_sam
from ullava.modeling.heads.mask_contract import DecodedMasks, MaskRules
from ullava.modeling.heads.mask_encoder import EncodingMaskHead
from ullava.modeling.heads.projector import two_layer_projector
from ullava.modeling.pixels import SAM_MEAN, SAM_STD, normalize_u8, resize_planes_u8
from ullava.modeling.positions import start_sam_positions
from ullava.structures import ImageArray

MaskScore = Literal["iou_head", "mean_probability"]


class SamMaskHead(EncodingMaskHead):
    """Holds the whole SAM; the projected state is its only sparse prompt, without positional or type embedding."""

    kind = "sam"
    makes_several = True

    def __init__(self, config: SamConfig, width_in: int) -> None:
        super().__init__()
        self.side = int(config.vision_config.image_size)
        plane = int(config.prompt_encoder_config.image_embedding_size) * 4  # two transposed convolutions of stride 2
        self.plane_hw = (plane, plane)
        self.map_width = int(config.prompt_encoder_config.hidden_size)
        self.projector = two_layer_projector(width_in, self.map_width)
        self.sam = SamModel(config)

    def init_new_weights(self) -> None:
        """The encoder's position table; see ullava.modeling.positions."""
        start_sam_positions(self.sam)

    @property
    def encoder(self) -> nn.Module:
        """See EncodingMaskHead."""
        network: nn.Module = self.sam.vision_encoder
        return network

    def encode(self, images: HeadImages, rows: torch.Tensor) -> list[torch.Tensor]:
        """Views of at most S x S at the top left of their plane -> embeddings [n, C, S/p, S/p] alone.

        They are padded to the square here; padding becomes zero *after* normalization, as in SAM.
        """
        dtype = self.sam.vision_encoder.patch_embed.projection.weight.dtype
        return [fast_sam.encode(self.sam, padded_squares(images, rows, self.side, dtype))]

    def adapt(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """See EncodingMaskHead."""
        return maps[0]

    def decode(
        self,
        states: torch.Tensor,
        features: torch.Tensor,
        image_of_state: torch.Tensor,
        content_hw: tuple[int, int] | None = None,
    ) -> DecodedMasks:
        """See MaskHead; the plane is [4S/p, 4S/p], the score SAM's own prediction of its IoU."""
        grid = features.shape[-1]
        rows = None if content_hw is None else -(-content_hw[0] * grid // self.side) + 1
        return DecodedMasks(*fast_sam.decode(self.sam, self.projector(states), features, image_of_state, rows))

    def several(
        self,
        states: torch.Tensor,
        features: torch.Tensor,
        image_of_state: torch.Tensor,
        boxes_xyxy_view: torch.Tensor | None = None,
    ) -> DecodedMasks:
        """See MaskHead; the corners of a box follow the state as SAM's own prompt tokens."""
        sparse = with_corners(self.sam.prompt_encoder, self.projector(states), boxes_xyxy_view)
        masks, quality = fast_sam.decode_several(self.sam, sparse, features[image_of_state], boxes_xyxy_view is None)
        return DecodedMasks(masks, quality)


def with_corners(encoder: Any, prompts: torch.Tensor, boxes_xyxy_view: torch.Tensor | None) -> torch.Tensor:
    """Projected states [K, C] -> sparse prompts [K, 1, tokens, C] of SAM's family, a box's corners behind each."""
    if boxes_xyxy_view is None:
        return prompts[:, None, None]
    sparse, _ = encoder(input_points=None, input_labels=None, input_boxes=boxes_xyxy_view[:, None], input_masks=None)
    return torch.cat([prompts[:, None, None], sparse.to(prompts.dtype)], dim=2)


def padded_squares(images: HeadImages, rows: torch.Tensor, side: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows ``rows`` of views uint8 [n, 3, h, w] -> normalized [n, 3, side, side], zero outside each one's content."""
    views = images.pixels[rows]
    squares = torch.zeros(len(views), 3, side, side, dtype=dtype, device=views.device)
    for square, view, (height, width) in zip(squares, views, images.sizes[rows].tolist(), strict=True):
        square[:, :height, :width] = normalize_u8(view[None, :, :height, :width], SAM_MEAN, SAM_STD, dtype)[0]
    return squares


class SamMaskRules(MaskRules):
    """SAM's view, the long side resized to S and padded at the bottom and right; ``kind``: what the score is."""

    def __init__(self, side: int, kind: MaskScore = "iou_head") -> None:
        self.side = side
        self.kind = kind

    def content_hw(self, original_hw: Sequence[int]) -> tuple[int, int]:
        """See MaskRules."""
        height, width = original_hw
        return resized_hw(plan_view("pad_br", (width, height), self.side))

    def view(self, image_rgb_u8: ImageArray) -> NDArray[np.uint8]:
        """See MaskRules; bilinear, as in SAM."""
        return resize_planes_u8(image_rgb_u8, *self.content_hw(image_rgb_u8.shape[:2]), "bilinear")

    def to_original(self, mask_logits_lowres: torch.Tensor, original_hw: Sequence[int]) -> torch.Tensor:
        """See MaskRules; SAM's post-processing: to the square, padding cut off, to the original."""
        height, width = original_hw
        covered = self.content_hw(original_hw)
        return to_original(mask_logits_lowres, square=self.side, resized_hw=covered, orig_hw=(height, width))

    def covered(self, mask_logits_lowres: torch.Tensor, original_hw: Sequence[int]) -> torch.Tensor:
        """See MaskRules."""
        return covered_lowres(mask_logits_lowres, square=self.side, resized_hw=self.content_hw(original_hw))

    def score(self, mask_logits_orig: torch.Tensor, score: float) -> float:
        """SAM's own quality, or the mean probability of the foreground (0 where there is none)."""
        if self.kind == "mean_probability":
            inside = mask_logits_orig[mask_logits_orig > 0]
            score = float(inside.sigmoid().mean()) if inside.numel() else 0.0
        return float(min(max(score, 0.0), 1.0))
