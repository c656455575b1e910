"""SAM's mask decoder on few prompt tokens, with the projections of the image folded away: for CPUs.

The stock decoder projects all N positions of the image to queries, keys and values in every attention, although only
T = 6 tokens meet them. A score is ``(Wq t) . (Wk x) = (Wk' Wq t) . x``, so the tokens are brought to the width
of the image; and sums over the image are projected after they are taken. Transposed convolutions of stride 2 are
one product for each position. Same weights, same result up to rounding (tests/unit/modeling/test_sam_speed.py), a
third of the time and memory, forward and backward.

Letters: k states of a chunk, T tokens, N = g x g positions, C width, H heads of d.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.sam.modeling_sam import SamAttention, SamMaskDecoder

from ullava.modeling.cpu.products import linear, linear_added

CHUNK_NUMBERS = 1 << 20
"""How many numbers [k, N, C] a chunk of states may hold: what stays in a processor's cache."""

PART_POSITIONS = 512
"""How many positions are refined together: sixteen times as many numbers as they had stay in the cache."""


def can_fold(decoder: SamMaskDecoder, states: Tensor) -> bool:
    """Whether ``decode_folded`` should be used: float32 on a CPU, with weights that are whole (not those of ZeRO-3).

    Biases that drop out of the softmax get no gradient here, and several processes that train must all have one.
    """
    weight = decoder.iou_token.weight
    plain = states.device.type == "cpu" and states.dtype == weight.dtype == torch.float32
    alone = not torch.is_grad_enabled() or not torch.distributed.is_initialized()
    return plain and alone and not torch.is_autocast_enabled("cpu") and not hasattr(weight, "ds_id")


def decode_folded(
    decoder: SamMaskDecoder,
    prompts: Tensor,
    image_embeddings: Tensor,
    dense: Tensor,
    positions: Tensor,
    image_of_prompt: Tensor,
    rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode one mask for each prompt token.

    Args:
        decoder: the stock module, of which only the weights are used.
        prompts: [K, C], the only sparse prompt of each mask.
        image_embeddings: [I, C, g, g].
        dense: [C], the dense prompt, alike everywhere.
        positions: [C, g, g], the image's positional embedding.
        image_of_prompt: [K], numbers below I.
        rows: draw the first rows of the grid alone; the logits below them are 0. None draws all g.

    Returns:
        Mask logits [K, 4g, 4g] and SAM's quality prediction [K].
    """
    if len(prompts) == 0:
        side = 4 * image_embeddings.shape[-1]
        return prompts.new_zeros(0, side, side), prompts.new_zeros(0)
    images = image_embeddings.flatten(2).transpose(1, 2).clone(memory_format=torch.contiguous_format).add_(dense)
    places = positions.flatten(1).T.contiguous()
    chunk = max(1, CHUNK_NUMBERS // images[0].numel())
    made = []
    for start in range(0, len(prompts), chunk):
        part = slice(start, start + chunk)
        made.append(_decode_chunk(decoder, prompts[part], images[image_of_prompt[part]], places, rows))
    return torch.cat([masks for masks, _ in made]), torch.cat([quality for _, quality in made])


def _decode_chunk(
    decoder: SamMaskDecoder, prompts: Tensor, image: Tensor, places: Tensor, rows: int | None
) -> tuple[Tensor, Tensor]:
    """[k, C] on [k, N, C] with positions [N, C] -> masks [k, 4g, 4g], quality [k]."""
    output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    first = torch.cat([output_tokens.expand(len(prompts), -1, -1), prompts[:, None]], dim=1)
    tokens, placed = first, image + places
    for layer in decoder.transformer.layers:
        if layer.skip_first_layer_pe:
            tokens = _among_tokens(layer.self_attn, tokens, tokens)
        else:
            tokens = tokens + _among_tokens(layer.self_attn, tokens + first, tokens)
        tokens = layer.layer_norm1(tokens)
        tokens = tokens + _from_image(layer.cross_attn_token_to_image, tokens + first, placed, image)
        tokens = layer.layer_norm2(tokens)
        tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
        image = _to_image(layer.cross_attn_image_to_token, image, placed, tokens + first, tokens)
        image = layer.layer_norm4(image)
        placed = image + places
    tokens = tokens + _from_image(decoder.transformer.final_attn_token_to_image, tokens + first, placed, image)
    tokens = decoder.transformer.layer_norm_final_attn(tokens)
    quality = decoder.iou_prediction_head(tokens[:, 0])[:, 0]
    mask_weights = decoder.output_hypernetworks_mlps[0](tokens[:, 1])
    return _draw(decoder, image, mask_weights, rows), quality


def _among_tokens(attention: SamAttention, query: Tensor, value: Tensor) -> Tensor:
    """Attention among the tokens themselves, [k, T, C]; the stock module has one more dimension."""
    result: Tensor = attention(query=query[:, None], key=query[:, None], value=value[:, None])[0][:, 0]
    return result


def _by_head(attention: SamAttention, tensor: Tensor) -> Tensor:
    """[..., H d] -> [..., H, d]."""
    return tensor.unflatten(-1, (attention.num_attention_heads, -1))


def _from_image(attention: SamAttention, query: Tensor, placed: Tensor, image: Tensor) -> Tensor:
    """Tokens [k, T, C] attend to positions: scores with ``placed``, sums of ``image``, both [k, N, C].

    The bias of the keys adds the same to all scores of a token and so drops out.
    """
    heads = attention.num_attention_heads
    token = _by_head(attention, attention.q_proj(query)) * attention.scaling
    weight_k = attention.k_proj.weight.unflatten(0, (heads, -1))
    weight_v = attention.v_proj.weight.unflatten(0, (heads, -1))
    widened = torch.einsum("kthd,hdc->khtc", token, weight_k).flatten(1, 2)
    shares = torch.softmax(_meet(widened, placed), dim=-1)
    sums = (shares @ image).unflatten(1, (heads, -1))
    values = torch.einsum("khtc,hdc->kthd", sums, weight_v) + _by_head(attention, attention.v_proj.bias)
    result: Tensor = attention.out_proj(values.flatten(2))
    return result


def _to_image(attention: SamAttention, image: Tensor, placed: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Positions attend to the tokens [k, T, C]; return ``image`` plus what they gathered, [k, N, C]."""
    heads = attention.num_attention_heads
    key = _by_head(attention, attention.k_proj(keys)) * attention.scaling
    value = _by_head(attention, attention.v_proj(values))
    weight_q = attention.q_proj.weight.unflatten(0, (heads, -1))
    weight_out = attention.out_proj.weight.unflatten(1, (heads, -1))
    widened = torch.einsum("kthd,hdc->khtc", key, weight_q).flatten(1, 2)
    offsets = torch.einsum("kthd,hd->kht", key, _by_head(attention, attention.q_proj.bias)).flatten(1)
    scores = _meet(widened, placed) + offsets[:, :, None]
    shares = torch.softmax(scores.unflatten(1, (heads, -1)), dim=2).flatten(1, 2)
    gathered = torch.einsum("kthd,chd->kcht", value, weight_out)
    # A head's shares sum to 1, so what every position gets may lie in the tokens of one head: a pass over it saved.
    first = torch.cat([gathered[:, :, :1] + attention.out_proj.bias[:, None, None], gathered[:, :, 1:]], dim=2)
    gathered, weights = first.flatten(2), shares.transpose(1, 2)
    if len(image) == 1:
        return linear_added(image.squeeze(0), weights.squeeze(0).contiguous(), gathered.squeeze(0)).unsqueeze(0)
    return torch.baddbmm(image, weights, gathered.transpose(1, 2))


def _meet(tokens: Tensor, image: Tensor) -> Tensor:
    """Products of tokens [k, t, C] with positions [k, N, C]: [k, t, N]."""
    if len(tokens) == 1:
        return linear(tokens.squeeze(0), image.squeeze(0)).unsqueeze(0)
    return tokens @ image.transpose(1, 2)


def _draw(decoder: SamMaskDecoder, image: Tensor, mask_weights: Tensor, rows: int | None) -> Tensor:
    """Refine [k, N, C] twice by 2 x 2 and weigh the channels with ``mask_weights`` [k, C / 8]: [k, 4g, 4g]."""
    grid = round(image.shape[1] ** 0.5)
    drawn = grid if rows is None else min(rows, grid)
    norm = decoder.upscale_layer_norm
    coarse, fine = _as_product(decoder.upscale_conv1), _as_product(decoder.upscale_conv2)
    pieces = []
    for part in image[:, : drawn * grid].split(PART_POSITIONS, dim=1):
        finer = linear(part, *coarse).unflatten(-1, (4, -1))
        finer = functional.gelu(functional.layer_norm(finer, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
        finest = functional.gelu(linear(finer.flatten(1, 2), *fine)).unflatten(-1, (4, -1))
        pieces.append((finest.flatten(1, 2) @ mask_weights[:, :, None])[..., 0])
    cells = torch.cat(pieces, dim=1).view(-1, drawn, grid, 2, 2, 2, 2)
    plane = cells.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 4 * drawn, 4 * grid)
    return functional.pad(plane, (0, 0, 0, 4 * (grid - drawn))) if drawn < grid else plane


def _as_product(convolution: torch.nn.ConvTranspose2d) -> tuple[Tensor, Tensor | None]:
    """A transposed convolution of kernel and stride 2 as one product: weight [4 C', C], bias [4 C'], rows first."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return weight, None if convolution.bias is None else convolution.bias.repeat(4)
