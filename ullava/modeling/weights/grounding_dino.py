"""GroundingDINO's original files (``groundingdino_swint_ogc.pth`` and its kin) -> ``GroundingDinoForObjectDetection``.

Both layouts hold the same numbers; joined query-key-value tables of the original are cut into three. Sizes are read off
the tensors. Two numbers of heads are not to be seen in them, and are those of the released files unless given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

from ullava.errors import WeightsError
from ullava.modeling.loading.strict_loading import find_misfits, load_strict
from ullava.modeling.weights.keymap import Rule, rename_keys
from ullava.modeling.weights.shapes import count_layers, shape_of

HEADS, TEXT_HEADS = 8, 12
WHAT = "a GroundingDINO checkpoint"

_SWIN = "model.backbone.conv_encoder.model.swin."
_ATTENTION = r"(?:sampling_offsets|attention_weights|value_proj|output_proj)\.\w+"

RULES: tuple[Rule, ...] = (
    Rule(r"bert\.embeddings\.position_ids|bert\.pooler\..+|label_enc\.weight", ()),
    Rule(r"backbone\.0\..+\.(?:relative_position_index|attn_mask)", ()),
    Rule(r"backbone\.0\.patch_embed\.proj\.(\w+)", (_SWIN + r"embeddings.patch_embeddings.projection.\1",)),
    Rule(r"backbone\.0\.patch_embed\.norm\.(\w+)", (_SWIN + r"embeddings.norm.\1",)),
    Rule(
        r"backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.norm1\.(\w+)",
        (_SWIN + r"encoder.layers.\1.blocks.\2.layernorm_before.\3",),
    ),
    Rule(
        r"backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.norm2\.(\w+)",
        (_SWIN + r"encoder.layers.\1.blocks.\2.layernorm_after.\3",),
    ),
    Rule(
        r"backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table",
        (_SWIN + r"encoder.layers.\1.blocks.\2.attention.relative_position_bias.relative_position_bias_table",),
    ),
    Rule(
        r"backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.attn\.(q|k|v)\.(\w+)",
        (_SWIN + r"encoder.layers.\1.blocks.\2.attention.\3_proj.\4",),
    ),
    Rule(
        r"backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.attn\.proj\.(\w+)",
        (_SWIN + r"encoder.layers.\1.blocks.\2.attention.o_proj.\3",),
    ),
    Rule(
        r"backbone\.0\.layers\.(\d+)\.(blocks\.\d+\.mlp\.fc[12]\.\w+|downsample\.\w+\.\w+)",
        (_SWIN + r"encoder.layers.\1.\2",),
    ),
    Rule(r"input_proj\.(.+)", (r"model.input_proj_vision.\1",)),
    Rule(r"bert\.(.+)", (r"model.text_backbone.\1",)),
    Rule(r"feat_map\.(\w+)", (r"model.text_projection.\1",)),
    Rule(r"transformer\.level_embed", (r"model.level_embed",)),
    Rule(r"transformer\.tgt_embed\.weight", (r"model.query_position_embeddings.weight",)),
    Rule(r"transformer\.(enc_output(?:_norm)?\.\w+)", (r"model.\1",)),
    Rule(r"transformer\.enc_out_bbox_embed\.(.+)", (r"model.encoder_output_bbox_embed.\1",)),
    Rule(
        r"transformer\.encoder\.layers\.(\d+)\.(self_attn\." + _ATTENTION + ")",
        (r"model.encoder.layers.\1.deformable_layer.\2",),
    ),
    *(
        Rule(
            rf"transformer\.encoder\.layers\.(\d+)\.{theirs}\.(\w+)",
            (rf"model.encoder.layers.\1.deformable_layer.{ours}.\2",),
        )
        for theirs, ours in (
            ("norm1", "self_attn_layer_norm"),
            ("norm2", "final_layer_norm"),
            ("linear1", "fc1"),
            ("linear2", "fc2"),
        )
    ),
    *(
        Rule(
            rf"transformer\.encoder\.text_layers\.(\d+)\.{theirs}\.(\w+)",
            (rf"model.encoder.layers.\1.text_enhancer_layer.{ours}.\2",),
        )
        for theirs, ours in (
            (r"self_attn\.query", "self_attn.query"),
            (r"self_attn\.key", "self_attn.key"),
            (r"self_attn\.value", "self_attn.value"),
            (r"self_attn\.out_proj", "self_attn.out_proj"),
            ("norm1", "layer_norm_before"),
            ("norm2", "layer_norm_after"),
            ("linear1", "fc1"),
            ("linear2", "fc2"),
        )
    ),
    Rule(
        r"transformer\.encoder\.fusion_layers\.(\d+)\.gamma_v", (r"model.encoder.layers.\1.fusion_layer.vision_param",)
    ),
    Rule(r"transformer\.encoder\.fusion_layers\.(\d+)\.gamma_l", (r"model.encoder.layers.\1.fusion_layer.text_param",)),
    *(
        Rule(
            rf"transformer\.encoder\.fusion_layers\.(\d+)\.{theirs}\.(\w+)",
            (rf"model.encoder.layers.\1.fusion_layer.{ours}.\2",),
        )
        for short, long in (("v", "vision"), ("l", "text"))
        for theirs, ours in (
            (f"layer_norm_{short}", f"layer_norm_{long}"),
            (rf"attn\.{short}_proj", f"attn.{long}_proj"),
            (rf"attn\.values_{short}_proj", f"attn.values_{long}_proj"),
            (rf"attn\.out_{short}_proj", f"attn.out_{long}_proj"),
        )
    ),
    Rule(
        r"transformer\.decoder\.layers\.(\d+)\.cross_attn\.(" + _ATTENTION + ")",
        (r"model.decoder.layers.\1.encoder_attn.\2",),
    ),
    Rule(
        r"transformer\.decoder\.layers\.(\d+)\.self_attn\.((?:query|key|value|out_proj)\.\w+)",
        (r"model.decoder.layers.\1.self_attn.\2",),
    ),
    Rule(
        r"transformer\.decoder\.layers\.(\d+)\.ca_text\.((?:query|key|value|out_proj)\.\w+)",
        (r"model.decoder.layers.\1.encoder_attn_text.\2",),
    ),
    *(
        Rule(rf"transformer\.decoder\.layers\.(\d+)\.{theirs}\.(\w+)", (rf"model.decoder.layers.\1.{ours}.\2",))
        for theirs, ours in (
            ("norm1", "encoder_attn_layer_norm"),
            ("norm2", "self_attn_layer_norm"),
            ("norm3", "final_layer_norm"),
            ("catext_norm", "encoder_attn_text_layer_norm"),
            ("linear1", "fc1"),
            ("linear2", "fc2"),
        )
    ),
    Rule(r"transformer\.decoder\.norm\.(\w+)", (r"model.decoder.layer_norm.\1",)),
    Rule(r"transformer\.decoder\.ref_point_head\.(.+)", (r"model.decoder.reference_points_head.\1",)),
    Rule(r"transformer\.decoder\.(bbox_embed\..+)", (r"model.decoder.\1",)),
    Rule(r"(bbox_embed\..+)", (r"\1",)),
)


def convert_grounding_dino(
    state_dict: Mapping[str, Tensor], heads: int = HEADS, text_heads: int = TEXT_HEADS
) -> GroundingDinoForObjectDetection:
    """Build the network that an original ``state_dict`` belongs to.

    Args:
        state_dict: by the original's names, with or without ``module.`` before them.
        heads: of the encoder's and decoder's attention (8 in the released files).
        text_heads: of the text encoder (12 in BERT base).

    Raises:
        WeightsError: keys that are no part of it, or missing, or of a shape that does not go together.
    """
    original = _split_joined({key.removeprefix("module."): tensor for key, tensor in state_dict.items()})
    config = config_of(original, heads, text_heads)
    renamed = rename_keys(original, (*_norm_rules(config), *RULES))
    model = GroundingDinoForObjectDetection(config)
    tensors = renamed.tensors | _unread(model)
    problems = [f"unexpected: {key}, no part of GroundingDINO" for key in renamed.unknown]
    problems += find_misfits(model, tensors)
    if problems:
        raise WeightsError(problems)
    load_strict(model, tensors)
    model.tie_weights()
    return model.eval()


def config_of(original: Mapping[str, Tensor], heads: int = HEADS, text_heads: int = TEXT_HEADS) -> GroundingDinoConfig:
    """Read the sizes off tensors by the original's names (joined tables already cut).

    Raises:
        WeightsError: a tensor that a size is read from is missing or has another rank; a number of heads cannot be.
    """
    levels, width = shape_of(original, "transformer.level_embed", 2, WHAT)
    layer = "transformer.{}.layers.0.{}"
    points = {}
    for part, attention in (("encoder", "self_attn"), ("decoder", "cross_attn")):
        each = shape_of(original, layer.format(part, f"{attention}.attention_weights.weight"), 2, WHAT)[0]
        if each % (heads * levels) or width % heads:
            raise WeightsError(f"shape: {heads} heads do not go with {each} attention weights on {levels} levels")
        points[part] = each // (heads * levels)
    return GroundingDinoConfig(
        backbone_config=_swin_config(original),
        text_config=_bert_config(original, text_heads),
        num_queries=shape_of(original, "transformer.tgt_embed.weight", 2, WHAT)[0],
        d_model=width,
        num_feature_levels=levels,
        encoder_layers=count_layers(original, r"transformer\.encoder\.layers\.(\d+)\..*", WHAT),
        decoder_layers=count_layers(original, r"transformer\.decoder\.layers\.(\d+)\..*", WHAT),
        encoder_ffn_dim=shape_of(original, layer.format("encoder", "linear1.weight"), 2, WHAT)[0],
        decoder_ffn_dim=shape_of(original, layer.format("decoder", "linear1.weight"), 2, WHAT)[0],
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_n_points=points["encoder"],
        decoder_n_points=points["decoder"],
        decoder_bbox_embed_share=_shares_boxes(original),
    )


def _swin_config(original: Mapping[str, Tensor]) -> SwinConfig:
    width, _, patch, _ = shape_of(original, "backbone.0.patch_embed.proj.weight", 4, WHAT)
    stages = count_layers(original, r"backbone\.0\.layers\.(\d+)\..*", WHAT)
    depths, heads = [], []
    for stage in range(stages):
        depths.append(count_layers(original, rf"backbone\.0\.layers\.{stage}\.blocks\.(\d+)\..*", WHAT))
        table = f"backbone.0.layers.{stage}.blocks.0.attn.relative_position_bias_table"
        heads.append(shape_of(original, table, 2, WHAT)[1])
    offsets = shape_of(original, "backbone.0.layers.0.blocks.0.attn.relative_position_bias_table", 2, WHAT)[0]
    hidden = shape_of(original, "backbone.0.layers.0.blocks.0.mlp.fc1.weight", 2, WHAT)[0]
    window = (isqrt(offsets) + 1) // 2
    return SwinConfig(
        image_size=patch * window * 2**stages,
        patch_size=patch,
        embed_dim=width,
        depths=depths,
        num_heads=heads,
        window_size=window,
        mlp_ratio=hidden / width,
        out_features=[f"stage{stage + 1}" for stage in _normed_stages(original)],
    )


def _bert_config(original: Mapping[str, Tensor], heads: int) -> BertConfig:
    words, width = shape_of(original, "bert.embeddings.word_embeddings.weight", 2, WHAT)
    if width % heads:
        raise WeightsError(f"shape: {heads} text heads do not go with a width of {width}")
    return BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=count_layers(original, r"bert\.encoder\.layer\.(\d+)\..*", WHAT),
        num_attention_heads=heads,
        intermediate_size=shape_of(original, "bert.encoder.layer.0.intermediate.dense.weight", 2, WHAT)[0],
        max_position_embeddings=shape_of(original, "bert.embeddings.position_embeddings.weight", 2, WHAT)[0],
        type_vocab_size=shape_of(original, "bert.embeddings.token_type_embeddings.weight", 2, WHAT)[0],
    )


def _normed_stages(original: Mapping[str, Tensor]) -> list[int]:
    """Stages of the backbone that the detector sees, 0, 1, …: those with a norm of their own."""
    return sorted(int(match[1]) for key in original if (match := re.fullmatch(r"backbone\.0\.norm(\d+)\.weight", key)))


def _norm_rules(config: GroundingDinoConfig) -> list[Rule]:
    """The original numbers stages from 0, transformers from 1."""
    names = config.backbone_config.out_features
    return [
        Rule(
            rf"backbone\.0\.norm{int(name.removeprefix('stage')) - 1}\.(\w+)",
            (rf"model.backbone.conv_encoder.model.hidden_states_norms.{name}.\1",),
        )
        for name in names
    ]


def _shares_boxes(original: Mapping[str, Tensor]) -> bool:
    """Whether all layers of the decoder have one and the same box head (so in the released files)."""
    heads = [
        (key, re.sub(r"^bbox_embed\.\d+", "bbox_embed.0", key)) for key in original if key.startswith("bbox_embed.")
    ]
    return all(first in original and torch.equal(original[key], original[first]) for key, first in heads)


def _split_joined(original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cut joined tables in three: ``qkv.weight`` -> ``q.weight`` …; ``in_proj_weight`` -> ``query.weight`` …"""
    split: dict[str, Tensor] = {}
    for key, tensor in original.items():
        match = re.fullmatch(r"(.+\.)(qkv\.|in_proj_)(weight|bias)", key)
        if match is None or len(tensor) % 3:
            split[key] = tensor
            continue
        names = ("q", "k", "v") if match[2] == "qkv." else ("query", "key", "value")
        for name, piece in zip(names, tensor.chunk(3), strict=True):
            split[f"{match[1]}{name}.{match[3]}"] = piece.contiguous()
    return split


def _unread(model: Any) -> dict[str, Tensor]:
    """Neutral values of the backbone's last norm, which transformers' class has and no detector reads."""
    fill = {f"{_SWIN}layernorm.weight": torch.ones, f"{_SWIN}layernorm.bias": torch.zeros}
    own = model.state_dict()
    return {name: make(own[name].shape) for name, make in fill.items() if name in own}
