"""``[SEG]`` state -> prompt token of a whole segmenter of SAM 2's family, which brings the image encoder it knows.

SAM 2 (Ravi et al., arXiv 2408.00714) on Hiera and EdgeTAM (Zhou et al., arXiv 2501.07256) on RepViT have the same
prompt encoder and mask decoder. Of both only what a single image needs is used, as transformers does it: the embedding
that stands for an empty memory is added to the coarsest map, two finer maps refine the mask, and a token of its own
says whether the thing is there at all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import EdgeTamConfig, EdgeTamModel, Sam2Config, Sam2Model

from ullava.examples import HeadImages
from ullava.modeling.heads.mask_contract import DecodedMasks
from ullava.modeling.heads.mask_encoder import EncodingMaskHead
from ullava.modeling.heads.mask_sam2 import PRESENT_AT_FIRST
from ullava.modeling.heads.projector import two_layer_projector
from ullava.modeling.pixels import IMAGENET_MEAN, IMAGENET_STD, normalize_u8

VIDEO_ONLY = (
    "mask_downsample.*",
    "memory_attention.*",
    "memory_encoder.*",
    "memory_temporal_positional_encoding",
    "no_memory_positional_encoding",
    "no_object_pointer",
    "object_pointer_proj.*",
    "occlusion_spatial_embedding_parameter",
    "spatial_perceiver.*",
    "temporal_positional_encoding_projection_layer.*",
)
"""Patterns of the weights that a checkpoint of the family has for videos alone: what earlier frames were like."""


class SegmenterMaskHead(EncodingMaskHead):
    """Holds the whole segmenter; the projected state is its only sparse prompt, no position or type added."""

    def __init__(self, config: Sam2Config | EdgeTamConfig, width_in: int) -> None:
        super().__init__()
        prompt = config.prompt_encoder_config
        self.kind = str(config.model_type)
        plane = 4 * (int(prompt.image_size) // int(prompt.patch_size))  # two transposed convolutions of stride 2
        self.plane_hw = (plane, plane)
        self.projector = two_layer_projector(width_in, int(prompt.hidden_size))
        self.sam: Any = EdgeTamModel(config) if isinstance(config, EdgeTamConfig) else Sam2Model(config)
        # Otherwise an unsure mask would be exchanged for another in answers alone, and training would not know it.
        self.sam.mask_decoder.dynamic_multimask_via_stability = False

    @torch.no_grad()
    def init_new_weights(self) -> None:
        """Things are there until something else is learned; see MaskHead."""
        self.sam.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(PRESENT_AT_FIRST)

    @property
    def encoder(self) -> nn.Module:
        """See EncodingMaskHead."""
        network: nn.Module = self.sam.vision_encoder
        return network

    def encode(self, images: HeadImages, rows: Tensor) -> list[Tensor]:
        """Square views -> maps of stride 4, 8 and 16, all of the neck's width."""
        encoder = self.encoder
        pixels = normalize_u8(images.pixels[rows], IMAGENET_MEAN, IMAGENET_STD, next(encoder.parameters()).dtype)
        return list(encoder(pixels, return_dict=True).fpn_hidden_states)

    def adapt(self, maps: list[Tensor]) -> list[Tensor]:
        """The same maps as wide as the decoder wants them; the two projections of the finer ones train with it."""
        fine, middle, coarse = maps
        decoder, empty_memory = self.sam.mask_decoder, self.sam.no_memory_embedding
        return [decoder.conv_s0(fine), decoder.conv_s1(middle), coarse + empty_memory.view(1, -1, 1, 1)]

    def decode(
        self,
        states: Tensor,
        features: Any,
        image_of_state: Tensor,
        content_hw: tuple[int, int] | None = None,
    ) -> DecodedMasks:
        """See MaskHead; the plane is the map of stride 4, the score the decoder's own prediction of the mask's IoU."""
        fine, middle, coarse = (plane[image_of_state] for plane in features)
        masks, quality, _, presence = self.sam.mask_decoder(
            image_embeddings=coarse,
            image_positional_embeddings=self.sam.get_image_wide_positional_embeddings().to(coarse.dtype),
            sparse_prompt_embeddings=self.projector(states)[:, None, None],
            dense_prompt_embeddings=self.sam.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1),
            multimask_output=False,
            high_resolution_features=[fine, middle],
        )
        return DecodedMasks(masks[:, 0, 0], quality[:, 0, 0], presence[:, 0, 0])
