"""u-LLaVA's own checkpoints -> ``UllavaForConditionalGeneration`` (layouts: those of its released code, first version
included).

Three layouts: stage I (``ullava_core``: language model, tower, projector), stage II (``ullava``), and stage II before
the box head existed (``text_hidden_fcs``, no ``det_*``, no ``[LOC]``). What a layout lacks starts at random, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, SamConfig

from ullava.errors import WeightsError
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.weights.keymap import Renamed, Rule, rename_keys
from ullava.modeling.weights.sam import SAM_RULES, sam_config_of

CORE, WHOLE = "ullava_core", "ullava"
ROTARY_BASE = 10000.0
"""Not in released configs; Llama 1 and 2, and Vicuna, use this one."""

HEADS = ("mask_head.projector", "box_head")
"""Parts that a layout may lack as a whole."""

NO_TOKEN = -1
"""The id of a token that a checkpoint does not have: it never occurs in a text."""

MARKER_KEYS: Mapping[str, str] = {
    "IMG_PATCH": "image_patch_id",
    "IMG_START": "image_start_id",
    "IMG_END": "image_end_id",
    "VID_PATCH": "video_patch_id",
    "VID_START": "video_start_id",
    "VID_END": "video_end_id",
}
"""Key of ``mm_token_ids`` in a released config -> field of ``UllavaConfig``."""

_PROJECTORS = {"mlp": "linear", "mlp2x": "mlp2x"}
_TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "initializer_range",
    "rope_theta",
    "rope_scaling",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)

CORE_RULES: tuple[Rule, ...] = (
    Rule(r"(?:.*\.)?rotary_emb\.inv_freq", ()),
    Rule(r"(?:.*\.)?embeddings\.position_ids", ()),
    Rule(r"(model\..+|lm_head\.weight)", (r"language_model.\1",)),
    Rule(r"vision_encoder\.vision_model\.(.+)", (r"vision.tower.\1",)),
    Rule(r"vision_projector\.(.+)", (r"vision.projector.\1",)),
)
HEAD_RULES: tuple[Rule, ...] = (
    Rule(r"(?:seg_projector|text_hidden_fcs)\.(.+)", (r"mask_head.projector.\1",)),
    Rule(r"det_projector\.(.+)", (r"box_head.projector.\1",)),
    Rule(r"det_decoder\.(.+)", (r"box_head.decoder.\1",)),
)
_SAM_PREFIX = "visual_model."


@dataclass(frozen=True, slots=True)
class Released:
    """A checkpoint read: our config, tensors by our names, keys that no rule knows, keys left out on purpose."""

    config: UllavaConfig
    tensors: dict[str, Tensor]
    unknown: tuple[str, ...]
    dropped: tuple[str, ...]


def core_table(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The stage-I part of a released config.

    Raises:
        WeightsError: another architecture, or a stage II config without ``llm_config``.
    """
    kind = config.get("model_type")
    if kind == CORE:
        return config
    if kind == WHOLE and isinstance(config.get("llm_config"), dict):
        table: Mapping[str, Any] = config["llm_config"]
        return table
    raise WeightsError(f"config.json: model_type is {kind!r}; u-LLaVA's checkpoints are '{CORE}' or '{WHOLE}'")


def read_released(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    decoder_heads: int,
    sam: tuple[SamConfig, Mapping[str, Tensor]] | None,
) -> Released:
    """Translate a released checkpoint.

    Args:
        config: its ``config.json``.
        state: its tensors by their own names.
        decoder_heads: heads of SAM's mask decoder, which no tensor shows.
        sam: for stage I, which has no SAM: the one to put beside it.

    Raises:
        WeightsError: another architecture, or SAM given to a checkpoint that has one (or missing).
    """
    core = core_table(config)
    whole = config["model_type"] == WHOLE
    if whole == (sam is not None):
        raise WeightsError(
            "this checkpoint has a SAM of its own, another cannot be given"
            if whole
            else "a stage I checkpoint holds no SAM; name a converted one (`ullava convert sam`) with --sam"
        )
    if whole:
        part = {key.removeprefix(_SAM_PREFIX): value for key, value in state.items() if key.startswith(_SAM_PREFIX)}
        sam_config, sam_keys = sam_config_of(part, decoder_heads), rename_keys(part, SAM_RULES)
    else:
        assert sam is not None
        sam_config, sam_keys = sam[0], Renamed(dict(sam[1]), [], [])
    ours = _config_of(config, core, sam_config, "det_decoder.0.weight" in state)
    prefix = "llm." if whole else ""
    language = {k.removeprefix(prefix): v for k, v in state.items() if not k.startswith(_SAM_PREFIX)}
    named = rename_keys(language, CORE_RULES + HEAD_RULES if whole else CORE_RULES)
    tensors = named.tensors | {f"mask_head.sam.{name}": tensor for name, tensor in sam_keys.tensors.items()}
    unknown = (*named.unknown, *(_SAM_PREFIX + key for key in sam_keys.unknown))
    return Released(ours, tensors, unknown, tuple(named.dropped))


def _config_of(
    config: Mapping[str, Any], core: Mapping[str, Any], sam_config: SamConfig, has_boxes: bool
) -> UllavaConfig:
    """Sizes and choices of a released model as ours: raw corners in the padded square, state before the token."""
    projector = core.get("projector_type", "mlp")
    if projector not in _PROJECTORS:
        raise WeightsError(f"config.json: projector_type {projector!r}; known: {', '.join(_PROJECTORS)}")
    text = text_sizes(core)
    ids = core.get("mm_token_ids") or {}
    markers: dict[str, Any] = {field: ids.get(key) for key, field in MARKER_KEYS.items()}
    absent = [key for key, field in MARKER_KEYS.items() if markers[field] is None]
    if absent:
        raise WeightsError([f"config.json: mm_token_ids has no {key}" for key in absent])
    return UllavaConfig(
        text_config=LlamaConfig(**text),
        vision_config=CLIPVisionConfig(**clip_sizes(core.get("vision_config") or {})),
        sam_config=sam_config,
        vision_feature_layer=int(core.get("vision_hidden_layer", -1)),
        projector=_PROJECTORS[projector],
        image_aspect_ratio="pad" if has_boxes else "crop",
        head_state="predicting",
        box_width=int(config.get("out_dim", sam_config.prompt_encoder_config.hidden_size)),
        box_frame="padsq",
        box_sigmoid=False,
        seg_id=config.get("seg_token_idx", NO_TOKEN),
        loc_id=config.get("loc_token_idx", NO_TOKEN),
        pad_token_id=text.get("pad_token_id"),
        bos_token_id=text.get("bos_token_id"),
        eos_token_id=text.get("eos_token_id"),
        **markers,
    )


def text_sizes(table: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``LlamaConfig`` from a stored config, with what old files leave unsaid."""
    text = {key: table[key] for key in _TEXT_FIELDS if table.get(key) is not None}
    if "num_attention_heads" in text:
        text.setdefault("num_key_value_heads", text["num_attention_heads"])
    text.setdefault("rope_theta", ROTARY_BASE)
    return text


def clip_sizes(table: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``CLIPVisionConfig`` from a stored config, which may hold keys of other versions too."""
    known = set(CLIPVisionConfig().to_dict()) - {"transformers_version", "dtype", "model_type", "architectures"}
    return {key: value for key, value in table.items() if key in known and value is not None}


def start_missing_parts(model: nn.Module, tensors: dict[str, Tensor]) -> list[str]:
    """Add random weights for each head of which the checkpoint holds nothing at all; return the names of such heads."""
    fresh = []
    for part in HEADS:
        if any(name.startswith(f"{part}.") for name in tensors):
            continue
        fresh.append(part)
        for name, tensor in model.state_dict().items():
            if name.startswith(f"{part}."):
                start = torch.zeros(tensor.shape, dtype=tensor.dtype)
                tensors[name] = start if start.ndim < 2 else nn.init.xavier_uniform_(start)
    return fresh


def grow_rows(released: Released, rows: int) -> None:
    """Bring the two word tables to ``rows`` rows; new ones are the mean of the old (as in u-LLaVA's released code)."""
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        table = released.tensors[name]
        mean = table.float().mean(dim=0, keepdim=True).to(table.dtype)
        released.tensors[name] = torch.cat([table, mean.expand(rows - len(table), -1)])
    released.config.text_config.vocab_size = rows
