"""ConvNeXt checkpoints -> ``ConvNextModel``: the names of open_clip and timm, or those of transformers.

Four stages or five (ConvLLaVA's). The text side and the heads are named in the report. The norm behind the last stage
is not read here, so one that is missing, or of another stage's width (ConvLLaVA's), starts as ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import ConvNextConfig, ConvNextModel

from ullava.errors import WeightsError
from ullava.modeling.loading.strict_loading import find_misfits, load_strict
from ullava.modeling.weights.clip import TEXT_SIDE
from ullava.modeling.weights.keymap import Rule, rename_keys
from ullava.modeling.weights.shapes import count_layers, shape_of

WHAT = "a ConvNeXt checkpoint"
_TRUNK = r"(?:visual\.)?(?:trunk\.)?"
_STAGE = r"(?:(?:vision_tower|convnext|model)\.)*"

TIMM_RULES: tuple[Rule, ...] = (
    Rule(TEXT_SIDE, ()),
    Rule(_TRUNK + r"head\.norm\.(\w+)", (r"layernorm.\1",)),
    Rule(r"visual\.head\..+|" + _TRUNK + r"head\..+", ()),
    Rule(_TRUNK + r"stem\.0\.(\w+)", (r"embeddings.patch_embeddings.\1",)),
    Rule(_TRUNK + r"stem\.1\.(\w+)", (r"embeddings.layernorm.\1",)),
    Rule(_TRUNK + r"stages\.(\d+)\.downsample\.([01])\.(\w+)", (r"encoder.stages.\1.downsampling_layer.\2.\3",)),
    Rule(_TRUNK + r"stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.(\w+)", (r"encoder.stages.\1.layers.\2.dwconv.\3",)),
    Rule(_TRUNK + r"stages\.(\d+)\.blocks\.(\d+)\.norm\.(\w+)", (r"encoder.stages.\1.layers.\2.layernorm.\3",)),
    Rule(_TRUNK + r"stages\.(\d+)\.blocks\.(\d+)\.mlp\.fc([12])\.(\w+)", (r"encoder.stages.\1.layers.\2.pwconv\3.\4",)),
    Rule(_TRUNK + r"stages\.(\d+)\.blocks\.(\d+)\.gamma", (r"encoder.stages.\1.layers.\2.layer_scale_parameter",)),
)
TRANSFORMERS_RULES: tuple[Rule, ...] = (
    Rule(TEXT_SIDE + r"|classifier\..+", ()),
    Rule(_STAGE + r"((?:embeddings|encoder|layernorm)\..+)", (r"\1",)),
)


@dataclass(frozen=True, slots=True)
class ConvertedConvNext:
    """The network, and the keys of the checkpoint that it does not need."""

    model: ConvNextModel
    left_out: tuple[str, ...]


def convert_convnext(state_dict: Mapping[str, Tensor], *, image_size: int = 224) -> ConvertedConvNext:
    """Build the ConvNeXt that ``state_dict`` holds; ``image_size`` is what its config says, any other goes as well.

    Raises:
        WeightsError: no ConvNeXt, or keys missing, unexpected or mis-shaped.
    """
    ours = any(".downsampling_layer." in key for key in state_dict)
    named = rename_keys(state_dict, TRANSFORMERS_RULES if ours else TIMM_RULES)
    tensors = named.tensors
    config = _config_of(tensors, image_size)
    model = ConvNextModel(config)
    left_out = list(named.dropped)
    for kind, start in (("weight", torch.ones), ("bias", torch.zeros)):
        key = f"layernorm.{kind}"
        if key not in tensors or len(tensors[key]) != config.hidden_sizes[-1]:
            left_out += [key] if key in tensors else []
            tensors[key] = start(config.hidden_sizes[-1])
    problems = [f"unexpected: {key}, no part of ConvNeXt" for key in named.unknown]
    problems += find_misfits(model, tensors)
    if problems:
        raise WeightsError(problems)
    load_strict(model, tensors)
    return ConvertedConvNext(model.eval(), tuple(left_out))


def _config_of(tensors: Mapping[str, Tensor], image_size: int) -> ConvNextConfig:
    """Read the sizes off the tensors; a block without a scale of its own has none (``layer_scale_init_value`` 0)."""
    width, channels, patch, _ = shape_of(tensors, "embeddings.patch_embeddings.weight", 4, WHAT)
    stages = count_layers(tensors, r"encoder\.stages\.(\d+)\..*", WHAT)
    depths = [count_layers(tensors, rf"encoder\.stages\.{stage}\.layers\.(\d+)\..*", WHAT) for stage in range(stages)]
    later = [shape_of(tensors, f"encoder.stages.{s}.downsampling_layer.1.weight", 4, WHAT)[0] for s in range(1, stages)]
    scaled = "encoder.stages.0.layers.0.layer_scale_parameter" in tensors
    return ConvNextConfig(
        num_channels=channels,
        patch_size=patch,
        num_stages=stages,
        hidden_sizes=[width, *later],
        depths=depths,
        image_size=image_size,
        layer_scale_init_value=1e-6 if scaled else 0.0,
    )
