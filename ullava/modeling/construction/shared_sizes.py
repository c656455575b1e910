"""What the parts of one network have to have in common, and what would make it larger than any."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, Sam3TrackerConfig

_Equal = tuple[str, Any, str, Any]
"""A key, its value, what it has to equal in words, and that value."""
MAX_QUERIES = 10_000
MEMORY_WIDTH = 64
"""Of what is remembered of a place: the attention of transformers 5.17 and later has no other."""


class TrialError(Exception):
    """The network is none that anything could hold, or its parts do not fit; ``key`` is the value to blame, if any."""

    def __init__(self, reason: str, key: str = "") -> None:
        self.key = key
        super().__init__(reason)


def refuse_narrow_decoder(config: PreTrainedConfig, prefix: str = "") -> None:
    """Raise TrialError where the decoder's width has no eighth, or its heads do not share out what attention sees."""
    if config.hidden_size % 8:
        raise TrialError(f"{config.hidden_size} is no multiple of 8", f"{prefix}hidden_size")
    inner = config.hidden_size // config.attention_downsample_rate
    if inner % config.num_attention_heads:
        raise TrialError(
            f"{config.num_attention_heads} heads do not divide {inner}, hidden_size / attention_downsample_rate",
            f"{prefix}num_attention_heads",
        )


def refuse_unequal_segmenter(config: PreTrainedConfig) -> None:
    """Raise TrialError where the parts of a SAM 2, EdgeTAM or SAM 3 do not have the sizes in common that they share."""
    vision, prompt, decoder = config.vision_config, config.prompt_encoder_config, config.mask_decoder_config
    refuse_lists("prompt_encoder_config.", prompt)
    if prompt.image_size % prompt.patch_size:
        raise TrialError(
            f"{prompt.image_size} is no multiple of patch_size {prompt.patch_size}", "prompt_encoder_config.image_size"
        )
    grid = prompt.image_size // prompt.patch_size
    maps = [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2]
    width = prompt.hidden_size
    equal = [
        *(_of_sam3(vision, prompt) if isinstance(config, Sam3TrackerConfig) else _of_sam2(vision, len(maps))),
        ("vision_config.backbone_feature_sizes", [list(pair) for pair in vision.backbone_feature_sizes],
         "4, 2 and 1 times image_size / patch_size of prompt_encoder_config", maps),
        ("vision_config.fpn_hidden_size", vision.fpn_hidden_size, "prompt_encoder_config.hidden_size", width),
        ("mask_decoder_config.hidden_size", decoder.hidden_size, "prompt_encoder_config.hidden_size", width),
    ]  # fmt: skip
    for key, value, other, wanted in equal:
        if value != wanted:
            raise TrialError(f"{value} has to equal {other}, which is {wanted}", key)
    refuse_narrow_decoder(decoder, "mask_decoder_config.")


def _of_sam2(vision: Any, maps: int) -> list[_Equal]:
    """What the encoders of SAM 2 and EdgeTAM have in common with what is made of them."""
    equal: list[_Equal] = [("vision_config.num_feature_levels", vision.num_feature_levels, "the number of maps", maps)]
    backbone = vision.backbone_config
    channels = getattr(backbone, "embed_dim_per_stage", None)
    if channels is not None:
        start = "embed_dim_per_stage of backbone_config"
        last = ("vision_config.backbone_channel_list", vision.backbone_channel_list, f"{start} from its end")
        first = ("vision_config.backbone_config.hidden_size", backbone.hidden_size, f"the first {start}")
        equal += [(*last, list(reversed(channels))), (*first, channels[0])]
    return equal


def _of_sam3(vision: Any, prompt: Any) -> list[_Equal]:
    """What SAM 3's encoder has in common with its prompts; of its maps the tracker reads three."""
    backbone, scales = "vision_config.backbone_config", [4.0, 2.0, 1.0]
    return [
        ("vision_config.scale_factors", list(vision.scale_factors)[: len(scales)], "what the decoder reads", scales),
        (f"{backbone}.image_size", vision.backbone_config.image_size, "prompt_encoder_config.image_size",
         prompt.image_size),
        (f"{backbone}.patch_size", vision.backbone_config.patch_size, "prompt_encoder_config.patch_size",
         prompt.patch_size),
    ]  # fmt: skip


def refuse_unequal_memory(config: PreTrainedConfig) -> None:
    """Raise TrialError where the memory of a segmenter of videos has other sizes than the maps that it is made of."""
    prompt, width_key = config.prompt_encoder_config, "prompt_encoder_config.hidden_size"
    side, width = prompt.image_size, prompt.hidden_size
    grid = side // prompt.patch_size
    if width % MEMORY_WIDTH:
        raise TrialError(f"{width} is no multiple of {MEMORY_WIDTH}", width_key)
    equal = (
        ("image_size", config.image_size, "prompt_encoder_config.image_size", side),
        ("memory_attention_hidden_size", config.memory_attention_hidden_size, width_key, width),
        ("memory_encoder_hidden_size", config.memory_encoder_hidden_size, width_key, width),
        ("mask_downsampler_embed_dim", config.mask_downsampler_embed_dim, "memory_encoder_hidden_size", width),
        ("memory_fuser_embed_dim", config.memory_fuser_embed_dim, "memory_encoder_hidden_size", width),
        ("mask_downsampler_total_stride", config.mask_downsampler_total_stride,
         "prompt_encoder_config.patch_size", prompt.patch_size),
        ("memory_attention_rope_feat_sizes", list(config.memory_attention_rope_feat_sizes),
         "image_size / patch_size of prompt_encoder_config, twice", [grid, grid]),
        ("memory_encoder_output_channels", config.memory_encoder_output_channels,
         "the width that transformers' attention to a memory has", MEMORY_WIDTH),
    )  # fmt: skip
    for key, value, other, wanted in equal:
        if value != wanted:
            raise TrialError(f"{value} has to equal {other}, which is {wanted}", key)


def refuse_lists(prefix: str, sizes: PreTrainedConfig) -> None:
    """transformers takes a height and a width too; our views are squares."""
    for name in ("image_size", "patch_size"):
        value = getattr(sizes, name, 1)  # a tower of convolutions has no patches
        if not isinstance(value, int):
            raise TrialError(f"expected a whole number, got {value}", f"{prefix}{name}")


def refuse_unequal_sam(config: PreTrainedConfig) -> None:
    """Raise TrialError where SAM's three parts do not have the sizes in common that they share."""
    vision, prompt, decoder = config.vision_config, config.prompt_encoder_config, config.mask_decoder_config
    refuse_lists("vision_config.", vision)
    refuse_lists("prompt_encoder_config.", prompt)
    if vision.image_size % vision.patch_size:
        raise TrialError(
            f"{vision.image_size} is no multiple of patch_size {vision.patch_size}", "vision_config.image_size"
        )
    width = prompt.hidden_size
    equal = (
        ("prompt_encoder_config.image_size", prompt.image_size, "vision_config.image_size", vision.image_size),
        ("prompt_encoder_config.patch_size", prompt.patch_size, "vision_config.patch_size", vision.patch_size),
        ("vision_config.output_channels", vision.output_channels, "prompt_encoder_config.hidden_size", width),
        ("mask_decoder_config.hidden_size", decoder.hidden_size, "prompt_encoder_config.hidden_size", width),
        ("vision_config.num_pos_feats", vision.num_pos_feats, "half of prompt_encoder_config.hidden_size", width / 2),
    )
    for key, value, other, wanted in equal:
        if value != wanted:
            raise TrialError(f"{value} has to equal {other}, which is {wanted:g}", key)
    layers = int(vision.num_hidden_layers)
    nowhere = [number for number in vision.global_attn_indexes if not 0 <= number < layers]
    if nowhere:
        raise TrialError(f"{nowhere[0]} is none of {layers} layers", "vision_config.global_attn_indexes")


def refuse_many_queries(config: PreTrainedConfig) -> None:
    """The queries are the best places of an image, so that it has to have as many."""
    if int(config.num_queries) > MAX_QUERIES:
        raise TrialError(f"{config.num_queries} is more than an image has places ({MAX_QUERIES})", "num_queries")
