"""CLIP checkpoints -> ``CLIPVisionModel``: OpenAI's and open_clip's names, or those of transformers (any version).

Only the image side is kept; the text side is named in the report. The original joins query, key and value in one
table, which is cut in three. Heads and activation are not to be seen in the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from ullava.errors import WeightsError
from ullava.modeling.loading.strict_loading import find_misfits, load_strict
from ullava.modeling.weights.keymap import Rule, rename_keys
from ullava.modeling.weights.shapes import count_layers, shape_of

HEAD_WIDTH = 64
"""Of every CLIP that OpenAI released; a few of open_clip's have 80 or more."""

WHAT = "a CLIP checkpoint"
TEXT_SIDE = (
    r"text_model\..+|text_projection(?:\.weight)?|logit_scale|logit_bias|visual_projection\.weight"
    r"|(?:text\.)?(?:transformer\..+|token_embedding\.weight|positional_embedding|ln_final\.\w+|attn_mask)"
    r"|context_length|vocab_size|input_resolution"
)
_BLOCK = r"visual\.transformer\.resblocks\.(\d+)\."

ORIGINAL_RULES: tuple[Rule, ...] = (
    Rule(TEXT_SIDE + r"|visual\.proj", ()),
    Rule(r"visual\.conv1\.weight", (r"embeddings.patch_embedding.weight",)),
    Rule(r"visual\.class_embedding", (r"embeddings.class_embedding",)),
    Rule(r"visual\.positional_embedding", (r"embeddings.position_embedding.weight",)),
    Rule(r"visual\.ln_pre\.(\w+)", (r"pre_layrnorm.\1",)),
    Rule(r"visual\.ln_post\.(\w+)", (r"post_layernorm.\1",)),
    Rule(_BLOCK + r"ln_([12])\.(\w+)", (r"encoder.layers.\1.layer_norm\2.\3",)),
    Rule(_BLOCK + r"attn\.(q|k|v)\.(\w+)", (r"encoder.layers.\1.self_attn.\2_proj.\3",)),
    Rule(_BLOCK + r"attn\.out_proj\.(\w+)", (r"encoder.layers.\1.self_attn.out_proj.\2",)),
    Rule(_BLOCK + r"mlp\.c_fc\.(\w+)", (r"encoder.layers.\1.mlp.fc1.\2",)),
    Rule(_BLOCK + r"mlp\.c_proj\.(\w+)", (r"encoder.layers.\1.mlp.fc2.\2",)),
)
TRANSFORMERS_RULES: tuple[Rule, ...] = (
    Rule(TEXT_SIDE + r"|(?:vision_model\.)?embeddings\.position_ids", ()),
    Rule(r"(?:vision_model\.)?((?:embeddings|encoder|pre_layrnorm|post_layernorm)\..+)", (r"\1",)),
)


@dataclass(frozen=True, slots=True)
class ConvertedTower:
    """The tower, and the keys of the checkpoint that it does not need."""

    model: CLIPVisionModel
    left_out: tuple[str, ...]


def convert_clip(
    state_dict: Mapping[str, Tensor],
    *,
    heads: int | None = None,
    activation: str = "quick_gelu",
    stored: Mapping[str, Any] | None = None,
) -> ConvertedTower:
    """Build the vision tower that ``state_dict`` holds.

    Args:
        state_dict: by OpenAI's or transformers' names.
        heads: of its attention; by default as many as make each 64 wide.
        activation: ``quick_gelu`` (OpenAI's weights) or ``gelu`` (open_clip's own).
        stored: transformers' ``vision_config``, where one lies beside the weights; it settles heads and activation.

    Raises:
        WeightsError: no CLIP, or keys missing, unexpected or mis-shaped.
    """
    original = any(key.startswith("visual.") for key in state_dict)
    tensors = _split_joined(state_dict) if original else dict(state_dict)
    named = rename_keys(tensors, ORIGINAL_RULES if original else TRANSFORMERS_RULES)
    config = _config_of(named.tensors, heads, activation, stored or {})
    model = CLIPVisionModel(config)
    problems = [f"unexpected: {key}, no part of CLIP" for key in named.unknown]
    problems += find_misfits(model, named.tensors)
    if problems:
        raise WeightsError(problems)
    load_strict(model, named.tensors)
    return ConvertedTower(model.eval(), tuple(named.dropped))


def _config_of(
    tensors: Mapping[str, Tensor], heads: int | None, activation: str, stored: Mapping[str, Any]
) -> CLIPVisionConfig:
    width, channels, patch, _ = shape_of(tensors, "embeddings.patch_embedding.weight", 4, WHAT)
    places = shape_of(tensors, "embeddings.position_embedding.weight", 2, WHAT)[0] - 1
    grid = isqrt(places)
    if grid * grid != places:
        raise WeightsError(f"shape: {places} patches are no square")
    heads = heads or int(stored.get("num_attention_heads", max(1, width // HEAD_WIDTH)))
    if width % heads:
        raise WeightsError(f"shape: {heads} heads do not go with a width of {width}; give the right number")
    return CLIPVisionConfig(
        hidden_size=width,
        num_channels=channels,
        patch_size=patch,
        image_size=grid * patch,
        num_hidden_layers=count_layers(tensors, r"encoder\.layers\.(\d+)\..*", WHAT),
        num_attention_heads=heads,
        intermediate_size=shape_of(tensors, "encoder.layers.0.mlp.fc1.weight", 2, WHAT)[0],
        hidden_act=stored.get("hidden_act", activation),
        layer_norm_eps=float(stored.get("layer_norm_eps", 1e-5)),
    )


def _split_joined(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``attn.in_proj_weight`` [3 D, D] -> ``attn.q.weight``, ``attn.k.weight``, ``attn.v.weight``; bias alike."""
    split: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        stem, joined, kind = key.rpartition("in_proj_")
        if joined and key.startswith("visual.") and kind in ("weight", "bias") and len(tensor) % 3 == 0:
            for name, piece in zip("qkv", tensor.chunk(3), strict=True):
                split[f"{stem}{name}.{kind}"] = piece.contiguous()
        else:
            split[key] = tensor
    return split
