"""LLaVA checkpoints -> the language part of ``UllavaForConditionalGeneration``, as a start for training the heads.

Two layouts: LLaVA's own (``model.mm_projector.*``, with or without its tower) and that of transformers
(``multi_modal_projector.*``). LLaVA marks no beginning and end of an image, points at nothing and has no SAM: those
rows and heads start afresh, and the report says so. SliME's checkpoints are of LLaVA's layout too, with a gated
projector and a second resampler; they become our strategy ``slime`` with its switches as released. Those of ConvLLaVA
have a ConvNeXt for a tower, in the checkpoint or beside it, and become our strategy ``conv``. AVG-LLaVA's have a router
and become our strategy ``avg`` with its two defects as released.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, ConvNextConfig, LlamaConfig, PreTrainedConfig, SamConfig

from ullava.config.vision import AvgConfig, ConvConfig, SlimeConfig
from ullava.errors import WeightsError
from ullava.geometry.patches import patch_grid_side
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.vision.avg_layout import levels_of
from ullava.modeling.weights.convnext import convert_convnext
from ullava.modeling.weights.keymap import Rule, rename_keys
from ullava.modeling.weights.released import NO_TOKEN, Released, clip_sizes, text_sizes

GATED = "gated"
PROJECTORS = {"linear": "linear", "mlp2x_gelu": "mlp2x", GATED: "mlp2x"}
"""Name in ``config.json`` -> ours; the gated one is SliME's, whose MLP is part of a mixture."""
GATES: Mapping[int, Literal["learned", "mlp", "resampler"]] = {-1: "learned", 0: "mlp", 1: "resampler"}
PREFIX = "vision.tower."
RESOLUTION = "mm_vision_resolution"
"""Where ConvLLaVA's ``config.json`` keeps the side of the tower's square, in pixels."""
CONVNEXT_STEM = "embeddings.patch_embeddings.weight"
ROUTER = "vision.router."
VOTER = f"{ROUTER}voter"
HEAD_WIDTH = 128
"""Channels of an attention head in SliME's resamplers."""
_TOWER = r"(?:model\.vision_tower\.vision_tower|vision_tower|model\.vision_tower)\."

RULES: tuple[Rule, ...] = (
    Rule(r"(?:.*\.)?rotary_emb\.inv_freq|" + _TOWER + r"(?:vision_model\.)?embeddings\.position_ids", ()),
    Rule(_TOWER + r"(?:vision_model\.)?(.+)", (r"vision.tower.\1",)),
    Rule(r"(?:model\.)?(?:mm_projector\.(?:mean|std|attn\.pos_embed)|sampler\.post_qformer\.pos_embed)", ()),
    Rule(r"(?:model\.)?mm_projector\.((?:w_gate|w_noise)|(?:projection|attn)\..+)", (r"vision.mixture.\1",)),
    Rule(r"(?:model\.)?sampler\.post_qformer\.(.+)", (r"vision.local.\1",)),
    Rule(r"(?:model\.)?mm_projector\.(.+)", (r"vision.projector.\1",)),
    Rule(r"model\.router\.(.+)", (r"vision.router.\1",)),
    Rule(r"model\.image_newline", (r"vision.newline.weight",)),
    Rule(r"(?:model\.)?multi_modal_projector\.linear_1\.(\w+)", (r"vision.projector.0.\1",)),
    Rule(r"(?:model\.)?multi_modal_projector\.linear_2\.(\w+)", (r"vision.projector.2.\1",)),
    Rule(r"language_model\.(model\..+|lm_head\.weight)", (r"language_model.\1",)),
    Rule(r"model\.language_model\.(.+)", (r"language_model.model.\1",)),
    Rule(r"(model\..+|lm_head\.weight)", (r"language_model.\1",)),
)


def read_llava(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    tower: tuple[PreTrainedConfig, Mapping[str, Tensor]] | None,
    sam: tuple[SamConfig, Mapping[str, Tensor]],
) -> Released:
    """Translate a LLaVA checkpoint.

    Args:
        config: its ``config.json``.
        state: its tensors by their own names.
        tower: a CLIP vision tower or a ConvNeXt, where the checkpoint has none of its own.
        sam: the SAM to put beside it.

    Raises:
        WeightsError: another architecture, a projector that ours cannot be, or a tower given twice or not at all.
    """
    kind = str(config.get("model_type"))
    if not kind.startswith("llava"):
        raise WeightsError(f"config.json: model_type is {kind!r}; LLaVA's are 'llava' or 'llava_llama'")
    named = rename_keys(state, RULES)
    tensors = dict(named.tensors)
    own_tower = any(name.startswith(PREFIX) for name in tensors)
    if own_tower == (tower is not None):
        raise WeightsError(
            "this checkpoint has a tower of its own, another cannot be given"
            if own_tower
            else "this checkpoint has no vision tower; name a converted one (`ullava convert clip`) with --tower"
        )
    tower_config, own = _stored_tower(config, tensors) if tower is None else _given_tower(config, *tower)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
    tensors |= {f"{PREFIX}{name}": tensor for name, tensor in own.items()}
    tensors |= {f"mask_head.sam.{name}": tensor for name, tensor in sam[1].items()}
    return Released(
        _config_of(config, tensors, tower_config, sam[0]), tensors, tuple(named.unknown), tuple(named.dropped)
    )


def _config_of(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], tower: PreTrainedConfig, sam: SamConfig
) -> UllavaConfig:
    own = "projector_hidden_act" not in config and "text_config" not in config
    projector = str(config.get("mm_projector_type", "linear")) if own else "mlp2x_gelu"
    if projector not in PROJECTORS:
        raise WeightsError(f"config.json: mm_projector_type {projector!r}; ours can be: {', '.join(PROJECTORS)}")
    feature = config.get("mm_vision_select_feature", "patch") if own else config.get("vision_feature_select_strategy")
    if feature not in ("patch", "default", None):
        raise WeightsError(f"config.json: the projector reads {feature!r} of the tower; ours reads its patches")
    stored = config if own else config.get("text_config") or {}
    if not own and stored.get("model_type", "llama") != "llama":
        raise WeightsError(f"config.json: the language model is a {stored['model_type']!r}; only Llamas are converted")
    text = text_sizes(stored)
    rows = tensors.get("language_model.model.embed_tokens.weight")
    if rows is not None:
        text["vocab_size"] = len(rows)
    image_aspect_ratio = "pad" if not own or config.get("image_aspect_ratio") == "pad" else "crop"
    layer = config.get("mm_vision_select_layer" if own else "vision_feature_layer", -2)
    strategy = "conv" if isinstance(tower, ConvNextConfig) else "slime" if projector == GATED else "clip_mlp"
    if VOTER in tensors and strategy == "clip_mlp":
        strategy = "avg"
    if strategy == "conv" and (projector == GATED or int(layer) != -1):
        raise WeightsError("config.json: of a ConvNeXt the last map is read, and projected; this one does otherwise")
    settings = {"conv": lambda: asdict(ConvConfig(video_side=min(768, int(tower.image_size)))),
                "slime": lambda: _slime_settings(config, tower.hidden_size),
                "avg": lambda: _avg_settings(config, tensors, tower)}  # fmt: skip
    return UllavaConfig(
        text_config=LlamaConfig(**text),
        vision_config=tower,
        sam_config=sam,
        vision_feature_layer=int(layer),
        projector=PROJECTORS[projector],
        image_aspect_ratio=image_aspect_ratio,
        strategy=strategy,
        vision_settings=settings[strategy]() if strategy in settings else None,
        seg_id=NO_TOKEN,
        loc_id=NO_TOKEN,
    )


def _slime_settings(config: Mapping[str, Any], width: int) -> dict[str, Any]:
    """SliME's switches as its ``config.json`` has them, and those that its code has fixed."""
    queries = int(config.get("mm_resampler_dim", 144))
    side = math.isqrt(queries)
    gate = int(config.get("mm_learnable_gated", -1))
    if config.get("mm_resampler_type", "cosine") != "cosine" or side * side != queries or gate not in GATES:
        raise WeightsError(
            f"config.json: mm_resampler_type {config.get('mm_resampler_type')!r}, mm_resampler_dim {queries}, "
            f"mm_learnable_gated {gate}; ours can be: 'cosine', a square number, {', '.join(map(str, GATES))}"
        )
    return asdict(
        SlimeConfig(
            top_p=float(config.get("mm_resampler_topp", 0.95)),
            temperature=float(config.get("mm_resampler_temp", 1.0)),
            reduce="sum",
            gate=GATES[gate],
            noise="gate",
            heads=max(width // HEAD_WIDTH, 1),
            local_side=side,
        )
    )


def _avg_settings(config: Mapping[str, Any], tensors: Mapping[str, Tensor], tower: PreTrainedConfig) -> dict[str, Any]:
    """AVG-LLaVA's canvases as its ``config.json`` has them, the router's sizes, and the released ways."""
    side = int(tower.image_size)
    levels = levels_of(patch_grid_side(side, int(tower.patch_size)))
    choices = tensors.get(f"{ROUTER}router.2.bias")
    slots = len(tensors[VOTER]) - sum(levels)
    if choices is None or len(choices) != len(levels) or slots < 1:
        raise WeightsError(
            f"the router weighs {len(tensors[VOTER])} places and {0 if choices is None else len(choices)} levels; "
            f"a tower of {side} pixels has the levels {', '.join(map(str, levels))} (and some words)"
        )
    pinpoints = config.get("image_grid_pinpoints") or [
        [side * c, side * r] for c, r in AvgConfig().image_grid_pinpoints
    ]
    if any(len(size) != 2 or size[0] % side or size[1] % side for size in pinpoints):
        raise WeightsError(f"config.json: image_grid_pinpoints {pinpoints}; canvases are whole tiles of {side} pixels")
    canvases = [[int(size[0]) // side, int(size[1]) // side] for size in pinpoints]
    return asdict(AvgConfig(image_grid_pinpoints=canvases, text_slots=slots, attention_axis="crops", unpad="cells"))


def _given_tower(
    config: Mapping[str, Any], tower: PreTrainedConfig, tensors: Mapping[str, Tensor]
) -> tuple[PreTrainedConfig, Mapping[str, Tensor]]:
    """A tower from beside the checkpoint, which says at what size it sees through it."""
    if not isinstance(tower, ConvNextConfig):
        return tower, tensors
    return _convnext(tensors, int(config.get(RESOLUTION, tower.image_size)))


def _stored_tower(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[PreTrainedConfig, Mapping[str, Tensor]]:
    """The tower in the checkpoint. Sizes: of ``vision_config``, or read off its tensors (heads as in OpenAI's CLIPs).

    Raises WeightsError for a ConvNeXt whose config does not say how many pixels it sees.
    """
    part = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    if CONVNEXT_STEM in part:
        if RESOLUTION not in config:
            raise WeightsError(f"config.json: no {RESOLUTION}, so nothing says how large the tower's square is")
        return _convnext(part, int(config[RESOLUTION]))
    return _clip_sizes(config, part), part


def _convnext(tensors: Mapping[str, Tensor], image_size: int) -> tuple[PreTrainedConfig, Mapping[str, Tensor]]:
    """Sizes are read off the tensors: what a released config says of the fifth stage is not transformers'."""
    model = convert_convnext(tensors, image_size=image_size).model
    return model.config, model.state_dict()


def _clip_sizes(config: Mapping[str, Any], part: Mapping[str, Tensor]) -> CLIPVisionConfig:
    if isinstance(config.get("vision_config"), dict):
        return CLIPVisionConfig(**clip_sizes(config["vision_config"]))
    from ullava.modeling.weights.clip import convert_clip

    with torch.no_grad():
        result: CLIPVisionConfig = convert_clip(dict(part)).model.config
    return result
