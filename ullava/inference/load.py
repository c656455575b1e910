"""``ullava.load``: a name or a folder -> a Predictor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ullava.config.load import load_config
from ullava.config.quantization import Quantization
from ullava.config.schema import ModelConfig
from ullava.errors import UserError, did_you_mean
from ullava.hub import find_folder, is_hub_id
from ullava.resources import find

RUNTIMES = ("torch", "onnx", "openvino")
"""What may run the networks of a model."""

if TYPE_CHECKING:
    from ullava.inference.predictor import Predictor


def weights_folder(model: str | Path) -> Path:
    """Folder with ``config.json`` for a name below models/, a model.yaml, such a folder itself, or an id of the Hub.

    Raises UserError when the model has no weights of its own (it must be trained or converted first), or is nowhere.
    """
    path = Path(model)
    if (path / "config.json").is_file():
        return path
    if path.is_dir() and (path / "model.yaml").is_file():
        path = path / "model.yaml"
    elif path.is_dir():
        raise UserError(f"{path}: neither config.json nor model.yaml in this folder")
    else:
        try:
            path = find("models", str(model))
        except UserError:
            if not is_hub_id(str(model)):
                raise
            return find_folder(str(model), Path(), f"model '{model}'")
    config = load_config(ModelConfig, path)
    if config.weights is None:
        raise UserError(
            f"{path}: this model has no weights of its own ('weights' is not set): train or convert it first"
        )
    folder = path.parent / config.weights
    if not (folder / "config.json").is_file():
        raise UserError(f"{path}: weights: no saved model in {folder}")
    return folder


def names_saved_model(model: str) -> bool:
    """Return whether ``model`` is a saved model itself, a folder or an id of the Hub, and not a model.yaml."""
    path = Path(model)
    if (path / "config.json").is_file() or path.is_dir():
        return (path / "config.json").is_file()
    try:
        find("models", model)
    except UserError:
        return is_hub_id(model)
    return False


def load(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: Quantization | None = None,
    runtime: str = "torch",
) -> Predictor:
    """Load a model for inference.

    ``device``: ``auto`` (an accelerator if there is one), ``cpu``, ``cuda``, ``cuda:1`` …; ``dtype``: ``auto`` is
    bfloat16 on an accelerator and float32 on a CPU. ``quantize``: ``int8`` or ``nf4`` holds the large linear layers in
    8 or 4 bits (docs/quantization.md). ``runtime``: ``torch``, or for a folder that ``ullava convert onnx`` wrote
    (docs/onnx.md) ``onnx`` or ``openvino``, which run its graphs on a CPU in float32.

    Raises UserError for a model that is nowhere, and for a runtime, device, type or kind that it cannot be run with.
    """
    if runtime not in RUNTIMES:
        raise UserError(f"unknown runtime '{runtime}'{did_you_mean(runtime, RUNTIMES)}")
    folder = weights_folder(model)
    if runtime != "torch":
        if quantize is not None:
            raise UserError(f"quantize '{quantize}': the graphs of runtime {runtime} are float32")
        return _load_graphs(folder, str(model), device, dtype, runtime)
    import torch

    from ullava.inference.devices import pick_device, pick_dtype
    from ullava.inference.predictor import Predictor
    from ullava.modeling.construction.auto import load_folder
    from ullava.modeling.construction.quantized import check_quantization, quantize_model
    from ullava.modeling.graphs.sessions import holds_graphs

    if holds_graphs(folder):
        raise UserError(f"{folder}: holds graphs and no weights; run it with --runtime onnx (runtime='onnx')")
    place = pick_device(device)
    if quantize is not None:
        check_quantization(quantize, place)
    loaded, processor = load_folder(folder, pick_dtype(dtype, place))
    if quantize is not None:
        quantize_model(loaded, quantize, place)
        loaded.quantized = quantize
    torch.manual_seed(0)
    return Predictor(loaded.to(place), processor, name=str(model))


def _load_graphs(folder: Path, name: str, device: str, dtype: str, runtime: str) -> Predictor:
    """Load a folder of graphs; the runtimes' own settings for accelerators are not offered."""
    if device not in ("auto", "cpu"):
        raise UserError(f"device '{device}': runtime {runtime} runs on a CPU")
    if dtype not in ("auto", "float32"):
        raise UserError(f"dtype '{dtype}': the graphs of runtime {runtime} are float32")
    import torch

    from ullava.inference.predictor import Predictor
    from ullava.modeling.graphs.model import load_graphs

    loaded, processor = load_graphs(folder, runtime)
    torch.manual_seed(0)
    return Predictor(loaded, processor, name=name)
