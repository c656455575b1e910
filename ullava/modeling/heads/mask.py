"""``[SEG]`` state -> SAM prompt token -> SAM mask decoder (spec/ullava.md 2.2-2.3), on transformers' SamModel parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from transformers import SamConfig, SamModel

from ullava.modeling.heads.sam_decoder import can_fold, decode_folded
from ullava.modeling.heads.sam_encoder import can_block, encode_one
from ullava.modeling.pixels import SAM_MEAN, SAM_STD, normalise_u8


def two_layer_projector(width_in: int, width_out: int) -> nn.Sequential:
    """Linear, ReLU, Linear: the projector between the language model and a head."""
    return nn.Sequential(nn.Linear(width_in, width_in), nn.ReLU(), nn.Linear(width_in, width_out))


class MaskHead(nn.Module):
    """Holds the whole SAM; the projected state is its only sparse prompt, without positional or type embedding."""

    def __init__(self, config: SamConfig, width_in: int) -> None:
        super().__init__()
        self.side = int(config.vision_config.image_size)
        self.projector = two_layer_projector(width_in, config.prompt_encoder_config.hidden_size)
        self.sam = SamModel(config)

    def embed_images(self, sam_pixel_values: torch.Tensor, sam_sizes: torch.Tensor) -> torch.Tensor:
        """Run the image encoder: uint8 [I, 3, h, w] with content of [I, 2] (h, w) at the top left -> [I, C, S/p, S/p].

        Pictures come on a plane as large as the largest of them (at most S x S) and are padded to the square here.
        Padding becomes zero *after* normalisation, as in SAM. Without trainable weights in it, no graph is kept.
        """
        encoder = self.sam.vision_encoder
        trainable = any(parameter.requires_grad for parameter in encoder.parameters())
        sizes = [(int(height), int(width)) for height, width in sam_sizes.tolist()]
        with torch.set_grad_enabled(trainable and torch.is_grad_enabled()):
            if can_block(encoder, sam_pixel_values.device):
                pairs = zip(sam_pixel_values, sizes, strict=True)
                return torch.cat([encode_one(encoder, self._squares(view[None], [size])) for view, size in pairs])
            return encoder(self._squares(sam_pixel_values, sizes)).last_hidden_state

    def _squares(self, views: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Views uint8 [I, 3, h, w] -> normalised [I, 3, S, S], zero outside each one's content (h, w)."""
        dtype = self.sam.vision_encoder.patch_embed.projection.weight.dtype
        squares = torch.zeros(len(views), 3, self.side, self.side, dtype=dtype, device=views.device)
        for square, view, (height, width) in zip(squares, views, sizes, strict=True):
            square[:, :height, :width] = normalise_u8(view[None, :, :height, :width], SAM_MEAN, SAM_STD, dtype)[0]
        return squares

    def decode(
        self,
        states: torch.Tensor,
        image_embeddings: torch.Tensor,
        image_of_state: torch.Tensor,
        content_height: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States [K, D] of tokens on images ``image_of_state`` [K] -> mask logits [K, 4S/p, 4S/p] and quality [K].

        ``content_height``: no picture reaches further down the square of S than this; logits well below it, which
        are cut off with the padding, may be left at 0.
        """
        sam = self.sam
        prompts = self.projector(states)
        dense = sam.prompt_encoder.no_mask_embed.weight[0]
        positions = sam.get_image_wide_positional_embeddings().to(image_embeddings.dtype)
        if can_fold(sam.mask_decoder, prompts):
            grid = image_embeddings.shape[-1]
            rows = None if content_height is None else -(-content_height * grid // self.side) + 1
            return decode_folded(sam.mask_decoder, prompts, image_embeddings, dense, positions[0], image_of_state, rows)
        embeddings = image_embeddings[image_of_state]
        masks, quality = sam.mask_decoder(
            image_embeddings=embeddings,
            image_positional_embeddings=positions.expand(len(embeddings), -1, -1, -1),
            sparse_prompt_embeddings=prompts[:, None, None, :],
            dense_prompt_embeddings=dense[:, None, None].expand_as(embeddings),
            multimask_output=False,
        )
        return masks[:, 0, 0], quality[:, 0, 0]


def upscale_mask_logits(
    mask_logits_lowres: torch.Tensor, *, side: int, resized_hw: Sequence[int], original_hw: Sequence[int]
) -> torch.Tensor:
    """Logits [K, h, w] of SAM's low plane -> fp32 [K, H, W] of the original picture.

    Bilinear to the S x S square, padding cut off, bilinear to the original (SAM's own post-processing). Always fp32.
    """
    planes = mask_logits_lowres.float()[:, None]
    finer, rest = divmod(side, planes.shape[-1])
    if finer > 1 and rest == 0:  # padding beyond the next cell has no part in what is kept
        rows, columns = (-(-int(length) // finer) + 1 for length in resized_hw)
        planes = functional.interpolate(
            planes[..., :rows, :columns], scale_factor=finer, mode="bilinear", align_corners=False
        )
    elif planes.shape[-1] != side:
        planes = functional.interpolate(planes, (side, side), mode="bilinear", align_corners=False)
    planes = planes[..., : int(resized_hw[0]), : int(resized_hw[1])]
    size = (int(original_hw[0]), int(original_hw[1]))
    if planes.shape[-2:] != size:
        planes = functional.interpolate(planes, size, mode="bilinear", align_corners=False)
    return planes[:, 0]
