"""``[SEG]`` state -> SAM 2's mask decoder (Ravi et al., arXiv 2408.00714) on the pyramid of the vision tower.

The decoder, transformers' own, refines the map of stride 16 by the tower's maps of stride 8 and 4, and says beside a
mask and its quality whether the thing is there at all. The state is its only sparse prompt. It also is the dense one:
a scale and a shift for each channel of every map (FiLM, Perez et al., arXiv 1709.07871), so that what is looked for
stands out before any attention has learned to find it. Its products with the cells of stride 8 are added to the mask
and to the object score (ullava.modeling.heads.match).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Sam2MaskDecoderConfig
from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder, Sam2PositionalEmbedding, Sam2PromptEncoderConfig

from ullava.errors import UserError
from ullava.examples import HeadImages
from ullava.modeling.heads.mask_contract import DecodedMasks, MaskHead, Pyramid
from ullava.modeling.heads.match import CellMatch
from ullava.modeling.heads.neck import TopDownNeck
from ullava.modeling.heads.projector import two_layer_projector
from ullava.modeling.towers.tower_contract import Level

STRIDES = (4, 8, 16)
"""Of the maps that the decoder reads, finest first; its masks have the finest one's cells."""
PRESENT_AT_FIRST = 2.0
"""Logit of a thing being there before anything is learned: most things that are asked for are."""


class Sam2MaskHead(MaskHead):
    """Neck, projector, FiLM, products and SAM 2's decoder.

    ``levels``: the tower's pyramid; ``side``: of the square it sees.
    """

    reads_pyramid = True

    def __init__(self, config: Sam2MaskDecoderConfig, levels: Sequence[Level], side: int, width_in: int) -> None:
        super().__init__()
        strides = tuple(level.stride for level in levels)
        if strides[: len(STRIDES)] != STRIDES:
            told = f"maps of stride {', '.join(map(str, strides))}" if strides else "no maps"
            raise UserError(f"mask.kind sam2 reads maps of stride 4, 8 and 16; vision.tower gives {told}")
        if side % STRIDES[-1]:
            raise UserError(f"mask.kind sam2: vision.tower.image_size {side} is no multiple of {STRIDES[-1]}")
        self.map_width = width = int(config.hidden_size)
        self.plane_hw = (side // STRIDES[0], side // STRIDES[0])
        self.neck = TopDownNeck([level.channels for level in levels], width, len(STRIDES))
        self.projector = two_layer_projector(width_in, width)
        self.widths = (width // 8, width // 4, width)
        self.modulation = nn.Linear(width, 2 * sum(self.widths))
        self.match = CellMatch(width, width_in)
        self.places = Sam2PositionalEmbedding(Sam2PromptEncoderConfig(hidden_size=width))
        self.decoder = Sam2MaskDecoder(config)
        self.decoder.dynamic_multimask_via_stability = False  # training and inference see the same mask

    @torch.no_grad()
    def init_new_weights(self) -> None:
        """Things are there until something else is learned; see MaskHead."""
        self.decoder.pred_obj_score_head.proj_out.bias.fill_(PRESENT_AT_FIRST)
        self.match.init_new_weights()

    def embed(self, images: HeadImages | Pyramid, rows: Tensor) -> list[Tensor]:
        """Rows of the pyramid -> maps of stride 4, 8 and 16, as wide as the decoder wants them, and what is matched."""
        if isinstance(images, HeadImages):
            raise UserError("mask.kind sam2 reads the vision tower's maps, not images of its own")
        whole = len(rows) == len(images[0]) and bool((rows == torch.arange(len(rows), device=rows.device)).all())
        return self.embed_maps(images if whole else [plane[rows] for plane in images])

    def embed_maps(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """``embed`` of all images of maps [I, C, h, w]."""
        fine, middle, coarse = self.neck(maps)
        return [self.decoder.conv_s0(fine), self.decoder.conv_s1(middle), coarse, self.match.embed(middle)]

    def decode(
        self,
        states: Tensor,
        features: Any,
        image_of_state: Tensor,
        content_hw: tuple[int, int] | None = None,
    ) -> DecodedMasks:
        """See MaskHead; the plane is the map of stride 4, the score SAM 2's own prediction of the mask's IoU."""
        prompts = self.projector(states)
        changes = self.modulation(prompts)[:, :, None, None].split([2 * width for width in self.widths], dim=1)
        *planes, cells = (plane[image_of_state] for plane in features)
        told = []
        for plane, change in zip(planes, changes, strict=True):
            scale, shift = change.chunk(2, dim=1)
            told.append(torch.addcmul(shift, plane, scale))
        masks, quality, _, presence = self.decoder(
            image_embeddings=planes[2],
            image_positional_embeddings=self._positions(planes[2]),
            sparse_prompt_embeddings=prompts[:, None, None],
            dense_prompt_embeddings=told[2],
            multimask_output=False,
            high_resolution_features=[planes[0] + told[0], planes[1] + told[1]],
        )
        like = self.match(states, cells)
        drawn = masks[:, 0, 0] + self.match.enlarged(like, self.plane_hw)
        return DecodedMasks(drawn, quality[:, 0, 0], presence[:, 0, 0] + self.match.presence(like))

    def _positions(self, plane: Tensor) -> Tensor:
        """Where each cell of [K, C, h, w] lies, [1, C, h, w]."""
        height, width = plane.shape[-2:]
        across = (torch.arange(width, device=plane.device) + 0.5) / width
        down = (torch.arange(height, device=plane.device) + 0.5) / height
        grid = torch.stack([across.expand(height, width), down[:, None].expand(height, width)], dim=-1)
        made: Tensor = self.places(grid[None]).to(plane.dtype)
        return made.permute(0, 3, 1, 2)
