"""Meta's segment-anything checkpoints (``sam_vit_b/l/h_*.pth``) -> transformers' ``SamModel``.

Both layouts hold the same tensors, so that only names change. Sizes are not stored beside Meta's weights; all are read
off the tensors except the number of attention heads of the mask decoder, which is 8 in every released model.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import SamConfig, SamModel

from ullava.errors import WeightsError
from ullava.modeling.loading.strict_loading import load_strict
from ullava.modeling.weights.keymap import Rule, rename_keys
from ullava.modeling.weights.shapes import count_layers, refuse_missing, shape_of

DECODER_HEADS = 8
WHAT = "a segment-anything checkpoint"

SIZE_KEYS = (
    "image_encoder.patch_embed.proj.weight",
    "image_encoder.pos_embed",
    "image_encoder.blocks.0.attn.rel_pos_h",
    "image_encoder.blocks.0.mlp.lin1.weight",
    "image_encoder.neck.2.weight",
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "prompt_encoder.mask_downscaling.3.weight",
    "mask_decoder.mask_tokens.weight",
    "mask_decoder.iou_prediction_head.layers.0.weight",
    "mask_decoder.transformer.layers.0.mlp.lin1.weight",
    "mask_decoder.transformer.final_attn_token_to_image.q_proj.weight",
)
"""Tensors that sizes are read off, in Meta's names."""

_MLP_LAYERS = (("0", "proj_in"), ("1", r"layers.0"), ("2", "proj_out"))

SAM_RULES: tuple[Rule, ...] = (
    Rule(r"image_encoder\.pos_embed", (r"vision_encoder.pos_embed",)),
    Rule(r"image_encoder\.patch_embed\.proj\.(\w+)", (r"vision_encoder.patch_embed.projection.\1",)),
    Rule(r"image_encoder\.blocks\.(\d+)\.norm(\d)\.(\w+)", (r"vision_encoder.layers.\1.layer_norm\2.\3",)),
    Rule(r"image_encoder\.blocks\.(\d+)\.(attn|mlp)\.(.+)", (r"vision_encoder.layers.\1.\2.\3",)),
    Rule(r"image_encoder\.neck\.0\.weight", (r"vision_encoder.neck.conv1.weight",)),
    Rule(r"image_encoder\.neck\.1\.(\w+)", (r"vision_encoder.neck.layer_norm1.\1",)),
    Rule(r"image_encoder\.neck\.2\.weight", (r"vision_encoder.neck.conv2.weight",)),
    Rule(r"image_encoder\.neck\.3\.(\w+)", (r"vision_encoder.neck.layer_norm2.\1",)),
    Rule(
        r"prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix",
        (
            r"shared_image_embedding.positional_embedding",
            r"prompt_encoder.shared_embedding.positional_embedding",
        ),
    ),
    Rule(r"prompt_encoder\.point_embeddings\.(\d)\.weight", (r"prompt_encoder.point_embed.\1.weight",)),
    Rule(r"prompt_encoder\.(not_a_point_embed|no_mask_embed)\.weight", (r"prompt_encoder.\1.weight",)),
    Rule(r"prompt_encoder\.mask_downscaling\.0\.(\w+)", (r"prompt_encoder.mask_embed.conv1.\1",)),
    Rule(r"prompt_encoder\.mask_downscaling\.1\.(\w+)", (r"prompt_encoder.mask_embed.layer_norm1.\1",)),
    Rule(r"prompt_encoder\.mask_downscaling\.3\.(\w+)", (r"prompt_encoder.mask_embed.conv2.\1",)),
    Rule(r"prompt_encoder\.mask_downscaling\.4\.(\w+)", (r"prompt_encoder.mask_embed.layer_norm2.\1",)),
    Rule(r"prompt_encoder\.mask_downscaling\.6\.(\w+)", (r"prompt_encoder.mask_embed.conv3.\1",)),
    Rule(r"mask_decoder\.(iou_token|mask_tokens)\.weight", (r"mask_decoder.\1.weight",)),
    Rule(
        r"mask_decoder\.transformer\.layers\.(\d+)\.norm(\d)\.(\w+)",
        (r"mask_decoder.transformer.layers.\1.layer_norm\2.\3",),
    ),
    Rule(r"mask_decoder\.transformer\.norm_final_attn\.(\w+)", (r"mask_decoder.transformer.layer_norm_final_attn.\1",)),
    Rule(
        r"(mask_decoder\.transformer\.(?:layers\.\d+|final_attn_token_to_image)\..+)",
        (r"\1",),
    ),
    Rule(r"mask_decoder\.output_upscaling\.0\.(\w+)", (r"mask_decoder.upscale_conv1.\1",)),
    Rule(r"mask_decoder\.output_upscaling\.1\.(\w+)", (r"mask_decoder.upscale_layer_norm.\1",)),
    Rule(r"mask_decoder\.output_upscaling\.3\.(\w+)", (r"mask_decoder.upscale_conv2.\1",)),
    *(
        Rule(rf"mask_decoder\.({mlp})\.layers\.{number}\.(\w+)", (rf"mask_decoder.\1.{name}.\2",))
        for mlp in (r"output_hypernetworks_mlps\.\d+", "iou_prediction_head")
        for number, name in _MLP_LAYERS
    ),
)


def convert_sam(state_dict: Mapping[str, Tensor], decoder_heads: int = DECODER_HEADS) -> SamModel:
    """Build the ``SamModel`` that Meta's ``state_dict`` belongs to.

    Raises:
        WeightsError: keys that SAM does not have, or that are missing, or of a shape that does not go together.
    """
    config = sam_config_of(state_dict, decoder_heads)
    renamed = rename_keys(state_dict, SAM_RULES)
    if renamed.unknown:
        raise WeightsError([f"unexpected: {key}, no part of segment-anything" for key in renamed.unknown])
    with torch.device("meta"):
        model = SamModel(config)
    load_strict(model, renamed.tensors)
    return model.eval()


def sam_config_of(state_dict: Mapping[str, Tensor], decoder_heads: int = DECODER_HEADS) -> SamConfig:
    """Read the sizes of a SAM off its tensors (Meta's names).

    Raises:
        WeightsError: a tensor that a size is read from is missing or does not have the expected rank.
    """
    refuse_missing(state_dict, SIZE_KEYS, WHAT)
    tokens = shape_of(state_dict, "mask_decoder.mask_tokens.weight", 2, WHAT)
    iou_hidden = shape_of(state_dict, "mask_decoder.iou_prediction_head.layers.0.weight", 2, WHAT)[0]
    mask_channels = shape_of(state_dict, "prompt_encoder.mask_downscaling.3.weight", 4, WHAT)[0]
    decoder_mlp = shape_of(state_dict, "mask_decoder.transformer.layers.0.mlp.lin1.weight", 2, WHAT)[0]
    inner = shape_of(state_dict, "mask_decoder.transformer.final_attn_token_to_image.q_proj.weight", 2, WHAT)
    vision = _vision_sizes(state_dict)
    grid = {"image_size": vision["image_size"], "patch_size": vision["patch_size"]}
    return SamConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": tokens[1], "mask_input_channels": mask_channels, **grid},
        mask_decoder_config={
            "hidden_size": tokens[1],
            "mlp_dim": decoder_mlp,
            "num_hidden_layers": count_layers(state_dict, r"mask_decoder\.transformer\.layers\.(\d+)\..*", WHAT),
            "num_attention_heads": decoder_heads,
            "attention_downsample_rate": inner[1] // inner[0],
            "num_multimask_outputs": tokens[0] - 1,
            "iou_head_depth": count_layers(state_dict, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\..*", WHAT),
            "iou_head_hidden_dim": iou_hidden,
        },
    )


def _vision_sizes(state_dict: Mapping[str, Tensor]) -> dict[str, int | list[int]]:
    """The arguments of SamVisionConfig. A block is global if its relative positions span the whole grid."""
    width, _, patch, _ = shape_of(state_dict, "image_encoder.patch_embed.proj.weight", 4, WHAT)
    grid = shape_of(state_dict, "image_encoder.pos_embed", 4, WHAT)[1]
    depth = count_layers(state_dict, r"image_encoder\.blocks\.(\d+)\..*", WHAT)
    spans = [shape_of(state_dict, f"image_encoder.blocks.{block}.attn.rel_pos_h", 2, WHAT) for block in range(depth)]
    whole = 2 * grid - 1
    windows = sorted({(span[0] + 1) // 2 for span in spans if span[0] != whole})
    if len(windows) > 1:
        raise WeightsError(f"blocks of the image encoder have windows of different sizes: {windows}")
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // spans[0][1],
        "image_size": grid * patch,
        "patch_size": patch,
        "window_size": windows[0] if windows else grid,
        "global_attn_indexes": [block for block, span in enumerate(spans) if span[0] == whole],
        "mlp_dim": shape_of(state_dict, "image_encoder.blocks.0.mlp.lin1.weight", 2, WHAT)[0],
        "output_channels": shape_of(state_dict, "image_encoder.neck.2.weight", 4, WHAT)[0],
        "num_pos_feats": shape_of(state_dict, "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", 2, WHAT)[
            1
        ],
    }
