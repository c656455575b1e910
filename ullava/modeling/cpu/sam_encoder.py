"""SAM's frozen image encoder without its largest intermediate, for CPUs.

In a global block every position attends to all N = g x g; with relative positions the stock block holds the N x N
table of their sum for every head and image (268 MB at 1024 pixels and 4 heads) and reads it back. Here a block of
queries is finished at a time. How depends on the width of the vector units: 512 bits, products of oneDNN
(ullava/modeling/cpu/products.py) on blocks of one core's cache; else torch's fused attention with the block's part of
the table as its mask, and the neck by ullava/modeling/cpu/winograd.py. Same weights, same result up to rounding.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionEncoder, SamVisionLayer, SamVisionNeck

from ullava.modeling.cpu.products import apply_linear, linear, wide_units
from ullava.modeling.cpu.winograd import can_tile, tiled, tiled_weight

Tables = tuple[Tensor, Tensor]
"""What ``_relative_positions`` returns."""

MIN_POSITIONS = 1024
"""From this many positions on the table no longer fits a cache."""

FUSED_QUERIES = 1024
"""Queries of a block where attention is fused."""

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
    """Whether ``encode_each`` should be used: float32 on a CPU, no gradient, an image of many positions."""
    grid = encoder.config.image_size // encoder.config.patch_size
    weight = encoder.patch_embed.projection.weight
    plain = device.type == "cpu" and weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    whole = not hasattr(weight, "ds_id")
    return plain and whole and not torch.is_grad_enabled() and grid * grid >= MIN_POSITIONS


def encode_each(encoder: SamVisionEncoder, images: Tensor) -> Tensor:
    """Run the encoder on normalized images [I, 3, S, S], one after the other -> [I, C, g, g]. Keeps no gradient."""
    neck = encoder.neck
    weight = tiled_weight(neck.conv2.weight) if not wide_units() and can_tile(neck.conv2) else None
    made = []
    for image in images[:, None]:
        hidden = encoder.patch_embed(image)
        if encoder.pos_embed is not None:
            hidden = hidden + encoder.pos_embed
        for layer in encoder.layers:
            hidden = _layer(layer, hidden)
        made.append(neck(hidden) if weight is None else _neck(neck, hidden, weight))
    return torch.cat(made)


def _neck(neck: SamVisionNeck, hidden: Tensor, weight: Tensor) -> Tensor:
    """The neck on [1, g, g, D] -> [1, C, g, g], its wide convolution by ``weight``, see ``tiled_weight``."""
    narrowed = neck.layer_norm1(neck.conv1(hidden.permute(0, 3, 1, 2)))
    return neck.layer_norm2(tiled(narrowed[0].permute(1, 2, 0), weight).permute(2, 0, 1)[None])


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
    tables = _relative_positions(attention, query, side, side) if attention.use_rel_pos else None
    at_once = max(1, block_numbers() // (query.shape[1] * side**4))
    result = torch.empty_like(query)
    for start in range(0, len(query), at_once):
        part = slice(start, start + at_once)
        result[part] = _attend(attention, query[part], key[part], value[part], _part(tables, part))
    return apply_linear(attention.proj, result.transpose(1, 2).reshape(hidden.shape))


def _part(tables: Tables | None, part: slice | tuple[slice, ...]) -> Tables | None:
    return None if tables is None else (tables[0][part], tables[1][part])


def _attend(attention: SamVisionAttention, query: Tensor, key: Tensor, value: Tensor, tables: Tables | None) -> Tensor:
    """torch's fused attention of queries [W, H, n, d] to keys [W, H, N, d], with ``tables`` of these queries."""
    mask = None if tables is None else (tables[0][..., :, None] + tables[1][..., None, :]).flatten(-2)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=attention.scale)


def global_attention(attention: SamVisionAttention, hidden: Tensor) -> Tensor:
    """Attention of all positions to all, [1, g, g, D] -> [1, g, g, D], in blocks of queries."""
    height, width = hidden.shape[1:3]
    query, key, value = _heads(attention, hidden)
    tables = _relative_positions(attention, query, height, width) if attention.use_rel_pos else None
    mix = _by_products if wide_units() else _fused
    joined = mix(attention, query, key, value, tables).transpose(1, 2).reshape(1, height, width, -1)
    return apply_linear(attention.proj, joined)


def _fused(attention: SamVisionAttention, query: Tensor, key: Tensor, value: Tensor, tables: Tables | None) -> Tensor:
    """Mix values [1, H, N, d], one head after the other, by torch's fused attention."""
    result = torch.empty_like(query)
    for head in range(query.shape[1]):
        of_head = slice(head, head + 1)
        for start in range(0, query.shape[2], FUSED_QUERIES):
            rows = (slice(None), of_head, slice(start, start + FUSED_QUERIES))
            result[rows] = _attend(attention, query[rows], key[:, of_head], value[:, of_head], _part(tables, rows))
    return result


def _by_products(
    attention: SamVisionAttention, query: Tensor, key: Tensor, value: Tensor, tables: Tables | None
) -> Tensor:
    """Mix values [1, H, N, d] in blocks of scores that one core's cache holds, by ``linear``."""
    result = torch.empty_like(query)
    positions = query.shape[2]
    block = max(1, block_numbers() // positions)
    for head in range(query.shape[1]):
        keys, values = key[0, head] * attention.scale, value[0, head].T.contiguous()
        for start in range(0, positions, block):
            rows = slice(start, start + block)
            scores = linear(query[0, head, rows], keys)
            if tables is not None:
                rel_h, rel_w = (table[0, head, rows] for table in tables)
                grid = scores.view(-1, rel_h.shape[-1], rel_w.shape[-1])
                grid.add_(rel_h[:, :, None]).add_(rel_w[:, None, :])
            result[0, head, rows] = linear(torch.softmax(scores, dim=-1, out=scores), values)
    return result


def _relative_positions(attention: SamVisionAttention, query: Tensor, height: int, width: int) -> Tables:
    """What a query [..., N, d] adds to the scores of each row [..., N, height] and of each column [..., N, width]."""
    grid = query.unflatten(-2, (height, width))
    rel_h = attention.get_rel_pos(height, height, attention.rel_pos_h)
    rel_w = attention.get_rel_pos(width, width, attention.rel_pos_w)
    by_row = torch.einsum("...hwc,hkc->...hwk", grid, rel_h).flatten(-3, -2)
    by_column = torch.einsum("...hwc,wkc->...hwk", grid, rel_w).flatten(-3, -2)
    return by_row, by_column
