"""Linear layers of a loaded model turned into ones of 8 or 4 bits, in place.

Those of the language model's layers are, and those of a large vision tower: they hold nearly all of the weights. The
word table and the language head (with the rows of our tokens), projectors and heads stay as they are.

On a CPU, 8 bits are ``ullava.modeling.cpu.int8``. Everything else is bitsandbytes': LLM.int8 (arXiv 2208.07339) and
NF4 with its scales in 8 bits (QLoRA, arXiv 2305.14314).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from ullava.config.quantization import EXTRA, QUANTIZATIONS, unknown
from ullava.errors import UserError
from ullava.modeling.cpu.int8 import Int8Linear
from ullava.modeling.loading.adapters import LORA_MARK

LARGE_TOWER = 50_000_000
"""A tower whose linear layers hold fewer weights is left whole: there is little to save."""
SMALL_LAYER = 1 << 16
"""A layer of fewer weights than this gets 8 bits where 4 are asked for: again little to save, and more to spoil."""
OUTLIER = 6.0
"""LLM.int8 computes inputs with values beyond this in 16 bits; the paper's threshold."""
BLOCK = 64
"""So many weights share a scale in NF4. bitsandbytes' kernels for CPUs want rows of whole blocks; others stay whole."""
PACKAGE = "bitsandbytes"

MakeLayer = Callable[[nn.Linear], nn.Module]


def check_quantization(kind: str, device: torch.device) -> None:
    """Raise UserError for a ``kind`` that there is none of, or that cannot run here on ``device``."""
    if (reason := lacking(kind, device)) is not None:
        raise UserError(f"quantize: {reason}")


def lacking(kind: str, device: torch.device, *, trains: bool = False) -> str | None:
    """Why ``kind`` cannot be on ``device``, in words; None where it can.

    ``trains``: gradients have to run through the layers, as through a frozen base.
    """
    if kind not in QUANTIZATIONS:
        return unknown(kind)
    if _is_ours(kind, device, trains):
        return None
    if find_spec(PACKAGE) is None:
        return f"{kind} on {device.type} needs {PACKAGE}: pip install 'ullava[{EXTRA}]'"
    try:
        import bitsandbytes
    except (ImportError, OSError, RuntimeError) as error:
        return f"{PACKAGE} cannot be used here: {str(error).splitlines()[0]}"
    able: Collection[str] = bitsandbytes.supported_torch_devices
    return None if device.type in able else f"{PACKAGE} is for {', '.join(sorted(able))}, not for {device.type}"


def _is_ours(kind: str, device: torch.device, trains: bool) -> bool:
    return kind == "int8" and device.type == "cpu" and not trains


def layer_maker(
    kind: str, device: torch.device, *, compute_dtype: torch.dtype | None = None, trains: bool = False
) -> MakeLayer:
    """Return what makes a layer of ``kind`` on ``device`` from a plain one; nothing is ``lacking``.

    ``compute_dtype``: what products of nf4 are computed in, by default the type of the weights.
    """
    if _is_ours(kind, device, trains):
        return Int8Linear
    return partial(_nf4, device=device, compute_dtype=compute_dtype) if kind == "nf4" else partial(_int8, device=device)


def replace_linear(
    model: Any, kind: str, make: MakeLayer, wanted: Callable[[nn.Linear], bool] = lambda layer: True
) -> None:
    """Put what ``make`` makes in the place of the layers that ``quantizable`` names and that are ``wanted``."""
    for name, layer in list(quantizable(model)):
        if wanted(layer) and (kind != "nf4" or layer.in_features % BLOCK == 0):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, make(layer))


def quantize_model(model: Any, kind: str, device: torch.device) -> None:
    """Turn the layers of ``model`` into ones of ``kind`` on ``device`` to answer with; nothing is ``lacking``.

    With nf4, small ones get 8 bits, and so do those up to the layer that masks and boxes are read at, where that is not
    the last: 4 were measured to change masks there (docs/quantization.md).
    """
    if kind == "nf4":
        read_at = model.config.grounding_layer or 0
        below = {id(module) for layer in model.core.decoder_layers()[:read_at] for module in layer.modules()}

        def in_eight(layer: nn.Linear) -> bool:
            small = layer.weight.numel() < SMALL_LAYER or layer.in_features % BLOCK > 0
            return small or id(layer) in below

        replace_linear(model, "int8", layer_maker("int8", device), in_eight)
    replace_linear(model, kind, layer_maker(kind, device))


def quantizable(model: Any) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers by name that may be held in fewer bits: see above. Adapters are none."""
    language = {id(module) for layer in model.core.decoder_layers() for module in layer.modules()}
    towers = tuple(prefix for part in model.core.parts() if part.kind == "tower" for prefix in part.prefixes)
    linear = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and LORA_MARK not in f".{name}"
    }
    in_tower = {name for name, module in linear.items() if f"{name}.".startswith(towers) and id(module) not in language}
    large = sum(linear[name].weight.numel() for name in in_tower) >= LARGE_TOWER
    return ((name, layer) for name, layer in linear.items() if id(layer) in language or (large and name in in_tower))


def _nf4(layer: nn.Linear, device: torch.device, compute_dtype: torch.dtype | None) -> nn.Module:
    import bitsandbytes

    made = bitsandbytes.nn.Linear4bit(
        layer.in_features, layer.out_features, layer.bias is not None, quant_type="nf4", compress_statistics=True,
        compute_dtype=compute_dtype or layer.weight.dtype, device="meta",
    )  # fmt: skip
    packed = bitsandbytes.nn.Params4bit(
        layer.weight.detach(), requires_grad=False, compress_statistics=True, quant_type="nf4", module=made
    )
    made.weight = packed.to(device)
    made.bias = layer.bias
    return made


def _int8(layer: nn.Linear, device: torch.device) -> nn.Module:
    import bitsandbytes

    made = bitsandbytes.nn.Linear8bitLt(
        layer.in_features, layer.out_features, layer.bias is not None, has_fp16_weights=False, threshold=OUTLIER,
        device="meta",
    )  # fmt: skip
    whole = bitsandbytes.nn.Int8Params(layer.weight.detach(), requires_grad=False, has_fp16_weights=False)
    made.weight = whole.to(device)
    made.bias = layer.bias
    return made
