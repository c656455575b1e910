"""``[SEG]`` state -> prompt token of a whole segmenter of SAM 2's family, which brings the image encoder it knows.

SAM 2 (Ravi et al., arXiv 2408.00714) on Hiera, EdgeTAM (Zhou et al., arXiv 2501.07256) on RepViT and the tracker of
SAM 3 (Carion et al., arXiv 2511.16719) on its ViT have the same prompt encoder and mask decoder. Of all only what a
single image needs is used, as the authors do it: the embedding that stands for an empty memory is added to the map of
stride 16, two finer maps refine the mask, and a token of its own says whether the thing is there at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ullava.examples import HeadImages
from ullava.modeling.heads.mask_contract import DecodedMasks, Pyramid
from ullava.modeling.heads.mask_encoder import EncodingMaskHead
from ullava.modeling.heads.mask_sam import with_corners
from ullava.modeling.heads.mask_sam2 import PRESENT_AT_FIRST
from ullava.modeling.heads.projector import two_layer_projector
from ullava.modeling.pixels import HALF, IMAGENET_MEAN, IMAGENET_STD, normalize_u8
from ullava.modeling.positions import start_hiera_positions

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
"""Patterns of the weights that a checkpoint of the family has for videos alone: what earlier frames were like.

The kinds ``sam2_video`` and ``edgetam_video`` read them (ullava.modeling.heads.mask_memory).
"""
MAPS = 3
"""How many maps the decoder reads: of stride 4, 8 and 16 (SAM 3: 3.5, 7 and 14)."""
SAM3_UNREAD = (f"vision_encoder.neck.fpn_layers.{MAPS}.*",)
"""Patterns of the weights of SAM 3's tracker that no mask reads."""


class Read(NamedTuple):
    """What the decoder tells of K prompts.

    ``masks``; ``presence_logits`` [K], as they hold them; ``tokens`` [K, C]: the outputs that they were drawn from.
    """

    masks: DecodedMasks
    presence_logits: Tensor
    tokens: Tensor


class SegmenterMaskHead(EncodingMaskHead):
    """Holds the whole segmenter; the projected state is its only sparse prompt, no position or type added.

    ``network``: transformers' class for ``config``.
    """

    makes_several = True
    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, config: Any, width_in: int, network: Any) -> None:
        super().__init__()
        prompt = config.prompt_encoder_config
        self.kind = str(config.model_type)
        plane = 4 * (int(prompt.image_size) // int(prompt.patch_size))  # two transposed convolutions of stride 2
        self.plane_hw = (plane, plane)
        self.map_width = int(prompt.hidden_size)
        self.projector = two_layer_projector(width_in, self.map_width)
        self.sam: Any = network(config)
        # Otherwise an unsure mask would be exchanged for another in answers alone, and training would not know it.
        self.sam.mask_decoder.dynamic_multimask_via_stability = False

    @torch.no_grad()
    def init_new_weights(self) -> None:
        """Things are there until something else is learned, and Hiera's places differ; see MaskHead."""
        start_hiera_positions(self.encoder.backbone)
        self.sam.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(PRESENT_AT_FIRST)

    @property
    def encoder(self) -> nn.Module:
        """See EncodingMaskHead."""
        network: nn.Module = self.sam.vision_encoder
        return network

    def encode(self, images: HeadImages, rows: Tensor) -> list[Tensor]:
        """Square views -> maps of stride 4, 8 and 16, all of the neck's width."""
        return list(self._seen(images, rows).fpn_hidden_states)

    def adapt(self, maps: list[Tensor]) -> list[Tensor]:
        """The same maps as wide as the decoder wants them; the two projections of the finer ones train with it."""
        fine, middle, coarse = self._projected(maps)
        return [fine, middle, self.without_memory(coarse)]

    def embed_bare(self, images: HeadImages | Pyramid, rows: Tensor) -> list[Tensor]:
        """``embed`` without the empty memory in the coarsest map, and the encoding [I, C, h, w] of its places."""
        views = self.own_views(images)
        with self.encoder_gradients():
            seen = self._seen(views, rows)
        return [*self._projected(seen.fpn_hidden_states), seen.fpn_position_encoding[-1]]

    def without_memory(self, coarse: Tensor) -> Tensor:
        """The coarsest map [I, C, h, w] of a frame that nothing is remembered for."""
        return coarse + self.sam.no_memory_embedding.view(1, -1, 1, 1)

    def _seen(self, images: HeadImages, rows: Tensor) -> Any:
        """What transformers' encoder returns."""
        pixels = normalize_u8(images.pixels[rows], self.mean, self.std, next(self.encoder.parameters()).dtype)
        return self.encoder(pixels, return_dict=True)

    def _projected(self, maps: Sequence[Tensor]) -> list[Tensor]:
        fine, middle, coarse = maps
        decoder = self.sam.mask_decoder
        return [decoder.conv_s0(fine), decoder.conv_s1(middle), coarse]

    def decode(
        self,
        states: Tensor,
        features: Any,
        image_of_state: Tensor,
        content_hw: tuple[int, int] | None = None,
    ) -> DecodedMasks:
        """See MaskHead; the plane is the map of stride 4, the score the decoder's own prediction of the mask's IoU."""
        return self.read([plane[image_of_state] for plane in features], self.projector(states)[:, None, None]).masks

    def several(
        self, states: Tensor, features: Any, image_of_state: Tensor, boxes_xyxy_view: Tensor | None = None
    ) -> DecodedMasks:
        """See MaskHead; the corners of a box follow the state as SAM 2's own prompt tokens."""
        fine, middle, coarse = (plane[image_of_state] for plane in features)
        sparse = with_corners(self.sam.prompt_encoder, self.projector(states), boxes_xyxy_view)
        masks, quality, _, presence = self._decoded(fine, middle, coarse, sparse, boxes_xyxy_view is None)
        return DecodedMasks(masks[:, 0], quality[:, 0], presence[:, 0, 0])

    def read(self, planes: Sequence[Tensor], sparse: Tensor, *, best: bool = False) -> Read:
        """Decode maps [K, ...] of stride 4, 8 and 16 under K sparse prompts [K, 1, tokens, C].

        ``best``: of the decoder's several masks the one that it rates highest, not its one mask for clear prompts.
        """
        fine, middle, coarse = planes
        masks, quality, tokens, presence = self._decoded(fine, middle, coarse, sparse, best)
        every = torch.arange(len(masks), device=masks.device)
        chosen = quality[:, 0].argmax(dim=-1) if best else torch.zeros_like(every)
        decoded = DecodedMasks(masks[every, 0, chosen], quality[every, 0, chosen], presence[:, 0, 0])
        return Read(decoded, presence[:, 0, 0], tokens[every, 0, chosen])

    def _decoded(self, fine: Tensor, middle: Tensor, coarse: Tensor, sparse: Tensor, several: bool) -> Any:
        return self.sam.mask_decoder(
            image_embeddings=coarse,
            image_positional_embeddings=self.sam.get_image_wide_positional_embeddings().to(coarse.dtype),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=self.sam.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1),
            multimask_output=several,
            high_resolution_features=[fine, middle],
        )


class Sam3TrackerMaskHead(SegmenterMaskHead):
    """The same with the tracker of SAM 3, which sees colors from -1 to 1.

    The published encoder makes a fourth, coarser map, which only SAM 3's detector reads; here it is left out. (In 5.23
    and 5.24 transformers' ``Sam3TrackerModel`` adds the empty memory to that one, where it changes no mask; the authors
    add it to the map of stride 14.)
    """

    mean, std = HALF, HALF

    def __init__(self, config: Any, width_in: int, network: Any) -> None:
        config.vision_config.scale_factors = list(config.vision_config.scale_factors[:MAPS])
        super().__init__(config, width_in, network)
