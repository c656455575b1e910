"""MG-LLaVA checkpoints (XTuner's ``.pth``) -> the strategy ``mg`` of ``UllavaForConditionalGeneration``.

Such a file holds what was trained: language model, fusion, and the projectors of patches and of boxes. Both towers were
frozen and are given beside it. There is no config of its own: the one beside it is the language model's, and everything
else is read off the tensors (its released checkpoints). It marks no beginning and end of an image, points at nothing
and has no SAM: those rows and heads start afresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedConfig, SamConfig

from ullava.config.vision import MgConfig
from ullava.errors import WeightsError
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.vision.mg_fusion import FusionKind
from ullava.modeling.vision.mg_pooling import LEVEL_WIDTH, PoolingKind
from ullava.modeling.weights.convnext import convert_convnext
from ullava.modeling.weights.keymap import Rule, rename_keys
from ullava.modeling.weights.released import NO_TOKEN, Released, text_sizes

BOX_PROJECTOR = "bbox_projector.model.0.weight"
"""What tells these checkpoints from all others."""
TOWER = "vision.tower."
PYRAMID = "vision.pyramid.model."
EMBEDDING = "language_model.model.embed_tokens.weight"

RULES: tuple[Rule, ...] = (
    Rule(r"(?:.*\.)?rotary_emb\.inv_freq|visual_encoder\.(?:vision_model\.)?embeddings\.position_ids", ()),
    Rule(r"llm\.(model\..+|lm_head\.weight)", (r"language_model.\1",)),
    Rule(r"visual_encoder\.(?:vision_model\.)?(.+)", (rf"{TOWER}\1",)),
    Rule(r"projector\.model\.(.+)", (r"vision.projector.\1",)),
    Rule(r"bbox_projector\.model\.(.+)", (r"vision.objects.projector.\1",)),
    Rule(r"multi_level_linear\.(.+)", (r"vision.objects.levels.\1",)),
    Rule(r"fuse_module\.(.+)", (r"vision.fusion.\1",)),
)


def is_mg_llava(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors by these names are MG-LLaVA's."""
    return BOX_PROJECTOR in state


def read_mg_llava(
    table: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    tower: tuple[PreTrainedConfig, Mapping[str, Tensor]] | None,
    pyramid: Mapping[str, Tensor] | None,
    sam: tuple[SamConfig, Mapping[str, Tensor]],
) -> Released:
    """Translate an MG-LLaVA checkpoint.

    Args:
        table: the ``config.json`` of its language model.
        state: its tensors by their own names.
        tower: the CLIP vision tower that it was trained with; its own weights win where the checkpoint has some.
        pyramid: tensors of the ConvNeXt that it was trained with, by open_clip's, timm's or transformers' names.
        sam: the SAM to put beside it.

    Raises:
        WeightsError: a tower that is not given, a language model that is no Llama or was trained by adapters, sizes
            that fit none of our fusions and poolings.
    """
    if table.get("model_type") != "llama":
        raise WeightsError(
            f"config.json: model_type {table.get('model_type')!r}; beside MG-LLaVA's weights belongs the config.json "
            "of its language model, and only Llamas are converted"
        )
    if tower is None or not isinstance(tower[0], CLIPVisionConfig):
        raise WeightsError("MG-LLaVA's weights hold no CLIP; name a converted one (`ullava convert clip`) with --tower")
    if pyramid is None:
        raise WeightsError("MG-LLaVA's weights hold no ConvNeXt; name the one it was trained with by --pyramid")
    named = rename_keys(state, RULES)
    if EMBEDDING not in named.tensors:
        raise WeightsError(f"{EMBEDDING.replace('language_model', 'llm')} is missing: only whole checkpoints, in which "
                           "the language model was trained, are converted")  # fmt: skip
    convnext = convert_convnext(pyramid).model
    tensors = {f"{TOWER}{name}": value for name, value in tower[1].items()} | named.tensors
    kept = {name: value for name, value in convnext.state_dict().items() if not name.startswith("layernorm.")}
    tensors |= {f"{PYRAMID}{name}": value for name, value in kept.items()}
    tensors |= {f"mask_head.sam.{name}": value for name, value in sam[1].items()}
    text = text_sizes(table) | {"vocab_size": len(tensors[EMBEDDING])}
    config = UllavaConfig(
        text_config=LlamaConfig(**text),
        vision_config=tower[0],
        sam_config=sam[0],
        vision_feature_layer=-2,
        projector="mlp2x",
        image_aspect_ratio="pad",
        strategy="mg",
        vision_settings=_settings(tensors, tower[0].hidden_size, convnext.config),
        seg_id=NO_TOKEN,
        loc_id=NO_TOKEN,
    )
    return Released(config, tensors, tuple(named.unknown), (*named.dropped,))


def _settings(tensors: Mapping[str, Tensor], low: int, convnext: PreTrainedConfig) -> dict[str, Any]:
    """The strategy's table: kinds by the shapes of the tensors, boxes and frames as released."""
    chosen = replace(
        MgConfig(),
        fusion=_fusion_kind(tensors, low),
        pooling=_pooling_kind(tensors, list(convnext.hidden_sizes)),
        box_rule="released",
        frame_pool=1,
    )
    table = {name: getattr(chosen, name) for name in MgConfig.__dataclass_fields__}
    return table | {"pyramid": convnext.to_dict()}


def _fusion_kind(tensors: Mapping[str, Tensor], low: int) -> FusionKind:
    if not any(name.startswith("vision.fusion.") for name in tensors):
        return "raw_concat"
    if "vision.fusion.gate.0.weight" not in tensors:
        return "concat"
    projector = tensors.get("vision.projector.0.weight")
    width = 0 if projector is None else projector.shape[1]
    if width not in (low, 2 * low):
        raise WeightsError(f"projector.model.0.weight reads {width} channels; a gate over CLIP's {low} gives {low} or "
                           f"{2 * low}: was it trained with another tower?")  # fmt: skip
    return "gate" if width == low else "gate_concat"


def _pooling_kind(tensors: Mapping[str, Tensor], channels: list[int]) -> PoolingKind:
    if any(name.startswith("vision.objects.levels.") for name in tensors):
        return "multi_level"
    width = tensors["vision.objects.projector.0.weight"].shape[1]
    kinds: dict[int, PoolingKind] = {sum(channels): "pyramid", channels[-1]: "last_only"}
    if width not in kinds:
        raise WeightsError(
            f"{BOX_PROJECTOR} reads {width} channels; the ConvNeXt has {sum(channels)} in all maps, {channels[-1]} in "
            f"the last ({LEVEL_WIDTH} behind layers of their own): was it trained with another one?"
        )
    return kinds[width]
