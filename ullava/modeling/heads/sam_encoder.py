"""SAM's frozen image encoder without its largest intermediate, for CPUs.

In a global block every position attends to all N = g x g; with relative positions the stock block holds the N x N
table of their sum for every head and picture (268 MB at 1024 pixels and 4 heads) and reads it back. Here a block of
queries is finished while its part of the table is in the processor's cache. Same weights, same result up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionEncoder, SamVisionLayer

MIN_POSITIONS = 1024
"""From this many positions on the table no longer fits a cache."""

BLOCK_NUMBERS = 1 << 19
"""How many scores a block may have: 2 MiB."""


def can_block(encoder: SamVisionEncoder, pixels: Tensor) -> bool:
    """Whether ``encode_blockwise`` should be used: float32 on a CPU, no gradient, a picture of many positions."""
    grid = encoder.config.image_size // encoder.config.patch_size
    plain = pixels.device.type == "cpu" and pixels.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    whole = not hasattr(encoder.patch_embed.projection.weight, "ds_id")
    return plain and whole and not torch.is_grad_enabled() and grid * grid >= MIN_POSITIONS


def encode_blockwise(encoder: SamVisionEncoder, pixels: Tensor) -> Tensor:
    """Run the encoder, one picture at a time: normalised [I, 3, S, S] -> [I, C, g, g]. Keeps no gradient."""
    return torch.cat([_encode_one(encoder, picture[None]) for picture in pixels])


def _encode_one(encoder: SamVisionEncoder, picture: Tensor) -> Tensor:
    hidden = encoder.patch_embed(picture)
    if encoder.pos_embed is not None:
        hidden = hidden + encoder.pos_embed
    for layer in encoder.layers:
        hidden = layer(hidden) if layer.window_size > 0 else _global_layer(layer, hidden)
    result: Tensor = encoder.neck(hidden)
    return result


def _global_layer(layer: SamVisionLayer, hidden: Tensor) -> Tensor:
    """A layer without windows on [1, g, g, D]."""
    hidden = hidden + global_attention(layer.attn, layer.layer_norm1(hidden))
    result: Tensor = hidden + layer.mlp(layer.layer_norm2(hidden))
    return result


def global_attention(attention: SamVisionAttention, hidden: Tensor) -> Tensor:
    """Attention of all positions to all, [1, g, g, D] -> [1, g, g, D], in blocks of queries."""
    height, width = hidden.shape[1:3]
    heads, positions = attention.num_attention_heads, height * width
    query, key, value = attention.qkv(hidden).view(positions, 3, heads, -1).permute(1, 2, 0, 3).contiguous().unbind()
    tables = _relative_positions(attention, query, height, width) if attention.use_rel_pos else None
    result = torch.empty_like(query)
    block = max(1, BLOCK_NUMBERS // positions)
    for head in range(heads):
        keys = key[head].T * attention.scale
        for start in range(0, positions, block):
            rows = slice(start, start + block)
            if tables is None:
                scores = query[head, rows] @ keys
            else:
                rel_h, rel_w = (table[head, rows] for table in tables)
                bias = (rel_h[:, :, None] + rel_w[:, None, :]).view(-1, positions)
                scores = torch.addmm(bias, query[head, rows], keys)
            torch.mm(torch.softmax(scores, dim=-1), value[head], out=result[head, rows])
    joined: Tensor = attention.proj(result.transpose(0, 1).reshape(1, height, width, -1))
    return joined


def _relative_positions(attention: SamVisionAttention, query: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """What a query [H, N, d] adds to the scores of each row [H, N, height] and of each column [H, N, width]."""
    grid = query.unflatten(1, (height, width))
    rel_h = attention.get_rel_pos(height, height, attention.rel_pos_h)
    rel_w = attention.get_rel_pos(width, width, attention.rel_pos_w)
    by_row = torch.einsum("nhwc,hkc->nhwk", grid, rel_h).flatten(1, 2)
    by_column = torch.einsum("nhwc,wkc->nhwk", grid, rel_w).flatten(1, 2)
    return by_row, by_column
