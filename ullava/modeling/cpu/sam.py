"""Chooses how SAM's encoder and mask decoder run: as transformers has them, or in their forms for a CPU."""

from __future__ import annotations

import torch
from transformers import SamModel

from ullava.modeling.cpu.sam_decoder import can_fold, decode_folded
from ullava.modeling.cpu.sam_encoder import can_block, encode_each


def encode(sam: SamModel, squares: torch.Tensor) -> torch.Tensor:
    """Run the image encoder on normalized squares [I, 3, S, S] -> embeddings [I, C, S/p, S/p]."""
    encoder = sam.vision_encoder
    if can_block(encoder, squares.device):
        return encode_each(encoder, squares)
    result: torch.Tensor = encoder(squares).last_hidden_state
    return result


def decode(
    sam: SamModel, prompts: torch.Tensor, embeddings: torch.Tensor, image_of_prompt: torch.Tensor, rows: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode one mask for each prompt token [K, C] on image ``image_of_prompt`` [K] of ``embeddings`` [I, C, g, g].

    ``rows``: logits below the first rows of the grid may be left at 0; None = all are wanted. Returns mask logits
    [K, 4g, 4g] and SAM's quality prediction [K].
    """
    dense = sam.prompt_encoder.no_mask_embed.weight[0]
    positions = sam.get_image_wide_positional_embeddings().to(embeddings.dtype)
    if can_fold(sam.mask_decoder, prompts):
        return decode_folded(sam.mask_decoder, prompts, embeddings, dense, positions[0], image_of_prompt, rows)
    return decode_as_published(sam, prompts, embeddings, image_of_prompt)


def decode_as_published(
    sam: SamModel, prompts: torch.Tensor, embeddings: torch.Tensor, image_of_prompt: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``decode``: by transformers' own modules, all logits of the plane."""
    masks, quality = decode_several(sam, prompts[:, None, None], embeddings[image_of_prompt], False)
    return masks[:, 0], quality[:, 0]


def decode_several(
    sam: SamModel, sparse: torch.Tensor, embeddings: torch.Tensor, multimask: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode sparse prompts [K, 1, tokens, C], each on its own embedding [K, C, g, g], by transformers' own modules.

    Returns logits [K, M, 4g, 4g] and quality [K, M]: M is 1, or with ``multimask`` how many masks the decoder has for
    prompts that may mean several things.
    """
    dense = sam.prompt_encoder.no_mask_embed.weight[0]
    positions = sam.get_image_wide_positional_embeddings().to(embeddings.dtype)
    masks, quality = sam.mask_decoder(
        image_embeddings=embeddings,
        image_positional_embeddings=positions.expand(len(embeddings), -1, -1, -1),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense[:, None, None].expand_as(embeddings),
        multimask_output=multimask,
    )
    return masks[:, 0], quality[:, 0]
