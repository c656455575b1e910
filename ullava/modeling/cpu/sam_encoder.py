"""SAM's frozen image encoder without its largest intermediate, for CPUs.

In a global block every position attends to all N = g x g; with relative positions the stock block holds the N x N
table of their sum for every head and image (268 MB at 1024 pixels and 4 heads) and reads it back. Here a block of
queries is finished while its part of the table is in the processor's cache, and linear layers are oneDNN's
(ullava/modeling/cpu/products.py). Same weights, same result up to rounding.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionEncoder, SamVisionLayer

from ullava.modeling.cpu.products import apply_linear, linear

MIN_POSITIONS = 1024
"""From this many positions on the table no longer fits a cache."""

USUAL_CACHE = 1 << 20
"""Bytes of a core's second cache where the system does not tell."""
CACHE_FILE = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
"""Where Linux tells: ``512K``."""


@cache
def block_numbers() -> int:
    """How many scores a block may have: float32 as many as the cache of one core holds."""
    try:
        told = CACHE_FILE.read_text(encoding="ascii").strip()
    except OSError:
        told = ""
    size = int(told.removesuffix("K")) * 1024 if told.removesuffix("K").isdecimal() else USUAL_CACHE
    return max(size, 1 << 16) // 4


def can_block(encoder: SamVisionEncoder, device: torch.device) -> bool:
    """Whether ``encode_one`` should be used: float32 on a CPU, no gradient, an image of many positions."""
    grid = encoder.config.image_size // encoder.config.patch_size
    weight = encoder.patch_embed.projection.weight
    plain = device.type == "cpu" and weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    whole = not hasattr(weight, "ds_id")
    return plain and whole and not torch.is_grad_enabled() and grid * grid >= MIN_POSITIONS


def encode_one(encoder: SamVisionEncoder, image: Tensor) -> Tensor:
    """Run the encoder on one normalized image [1, 3, S, S] -> [1, C, g, g]. Keeps no gradient."""
    hidden = encoder.patch_embed(image)
    if encoder.pos_embed is not None:
        hidden = hidden + encoder.pos_embed
    for layer in encoder.layers:
        hidden = _layer(layer, hidden)
    result: Tensor = encoder.neck(hidden)
    return result


def _layer(layer: SamVisionLayer, hidden: Tensor) -> Tensor:
    """A layer on [1, g, g, D], with or without windows."""
    normed = layer.layer_norm1(hidden)
    if layer.window_size > 0:
        windows, padded = layer.window_partition(normed, layer.window_size)
        mixed = layer.window_unpartition(_windowed(layer.attn, windows), layer.window_size, padded, hidden.shape[1:3])
    else:
        mixed = global_attention(layer.attn, normed)
    hidden = hidden + mixed
    inner = layer.mlp.act(apply_linear(layer.mlp.lin1, layer.layer_norm2(hidden)))
    return hidden + apply_linear(layer.mlp.lin2, inner)


def _heads(attention: SamVisionAttention, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of [W, h, w, D], each [W, H, h w, d]."""
    windows, positions = hidden.shape[0], hidden.shape[1] * hidden.shape[2]
    joined = apply_linear(attention.qkv, hidden)
    joined = joined.view(windows, positions, 3, attention.num_attention_heads, -1)
    query, key, value = joined.permute(2, 0, 3, 1, 4).contiguous().unbind()
    return query, key, value


def _windowed(attention: SamVisionAttention, hidden: Tensor) -> Tensor:
    """Attention within each of W windows, [W, w, w, D] -> [W, w, w, D], a few windows at a time."""
    side = hidden.shape[1]
    query, key, value = _heads(attention, hidden)
    at_once = max(1, block_numbers() // (query.shape[1] * side**4))
    parts = zip(query.split(at_once), key.split(at_once), value.split(at_once), strict=True)
    mixed = torch.cat([_within_windows(attention, *part) for part in parts])
    return apply_linear(attention.proj, mixed.transpose(1, 2).reshape(hidden.shape))


def _within_windows(attention: SamVisionAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of [W, H, w w, d]."""
    table = None
    if attention.use_rel_pos:
        side = round(query.shape[2] ** 0.5)
        rel_h, rel_w = _relative_positions(attention, query, side, side)
        table = (rel_h[..., :, None] + rel_w[..., None, :]).flatten(-2)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=table, scale=attention.scale)


def global_attention(attention: SamVisionAttention, hidden: Tensor) -> Tensor:
    """Attention of all positions to all, [1, g, g, D] -> [1, g, g, D], in blocks of queries."""
    height, width = hidden.shape[1:3]
    query, key, value = (part[0] for part in _heads(attention, hidden))
    heads, positions = query.shape[:2]
    tables = _relative_positions(attention, query, height, width) if attention.use_rel_pos else None
    result = torch.empty_like(query)
    block = max(1, block_numbers() // positions)
    for head in range(heads):
        keys, values = key[head] * attention.scale, value[head].T.contiguous()
        for start in range(0, positions, block):
            rows = slice(start, start + block)
            scores = linear(query[head, rows], keys)
            if tables is not None:
                rel_h, rel_w = (table[head, rows] for table in tables)
                scores.view(-1, height, width).add_(rel_h[:, :, None]).add_(rel_w[:, None, :])
            result[head, rows] = linear(torch.softmax(scores, dim=-1, out=scores), values)
    joined = result.transpose(0, 1).reshape(1, height, width, -1)
    return apply_linear(attention.proj, joined)


def _relative_positions(attention: SamVisionAttention, query: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """What a query [..., N, d] adds to the scores of each row [..., N, height] and of each column [..., N, width]."""
    grid = query.unflatten(-2, (height, width))
    rel_h = attention.get_rel_pos(height, height, attention.rel_pos_h)
    rel_w = attention.get_rel_pos(width, width, attention.rel_pos_w)
    by_row = torch.einsum("...hwc,hkc->...hwk", grid, rel_h).flatten(-3, -2)
    by_column = torch.einsum("...hwc,wkc->...hwk", grid, rel_w).flatten(-3, -2)
    return by_row, by_column
