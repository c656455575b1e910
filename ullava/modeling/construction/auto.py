"""Registration with the Auto classes and strict loading of saved folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from ullava.errors import UserError, WeightsError
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.construction.build import set_attention, settle_generation
from ullava.modeling.construction.language_base import lacks_language, load_unmerged, load_without_language
from ullava.modeling.construction.saved_folder import check_ends, check_fit, read_saved_config, read_saved_processor
from ullava.modeling.loading.pretrained import read_network
from ullava.modeling.loading.strict_loading import refuse_misfits
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.processing.processor import UllavaProcessor


def register() -> None:
    """Make ``AutoModelForImageTextToText.from_pretrained`` and its siblings know our classes; may be called again."""
    AutoConfig.register(UllavaConfig.model_type, UllavaConfig, exist_ok=True)
    AutoModelForImageTextToText.register(UllavaConfig, UllavaForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(UllavaConfig, UllavaProcessor, exist_ok=True)


def load_folder(
    folder: Path, dtype: torch.dtype, *, attn_implementation: str = "sdpa"
) -> tuple[UllavaForConditionalGeneration, UllavaProcessor]:
    """Load a folder written by ``save_pretrained``; safetensors only. ``attention``: see ``build_model``.

    One without its language model (``ullava.modeling.construction.language_base``) is put together with that.

    Raises UserError when the folder is no model of ours, WeightsError listing every missing, unexpected or mis-shaped
    key.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json, so this is not a saved model")
    if not any(folder.glob("*.safetensors")):
        pickled = [path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pth"), *folder.glob("*.pt"))]
        hint = f" ({', '.join(pickled)} may run code when read: use 'ullava convert checkpoint')" if pickled else ""
        raise WeightsError(f"{folder}: no safetensors weights{hint}")
    config = read_saved_config(folder)
    set_attention(config, attn_implementation)
    if lacks_language(folder):
        return _settled(load_without_language(folder, config, dtype), folder, config)
    check_fit(config, folder)
    model, info = read_network(UllavaForConditionalGeneration, folder, config=config, dtype=dtype, use_safetensors=True)
    refuse_misfits(info, folder)
    processor = read_saved_processor(folder, config)
    check_ends(model, processor, folder)
    return model.eval(), processor


def load_unmerged_folder(
    folder: Path, *, attn_implementation: str = "sdpa"
) -> tuple[UllavaForConditionalGeneration, UllavaProcessor, Any]:
    """Load a saved system without its language model for further training: its adapters stay apart, as peft's handle.

    Raises as ``load_folder``.
    """
    config = read_saved_config(folder)
    set_attention(config, attn_implementation)
    model, adapters = load_unmerged(folder, config, trainable=True)
    return *_settled(model, folder, config), adapters


def _settled(
    model: UllavaForConditionalGeneration, folder: Path, config: UllavaConfig
) -> tuple[UllavaForConditionalGeneration, UllavaProcessor]:
    """A model that was put together of parts with the processor in ``folder``, ready to answer."""
    processor = read_saved_processor(folder, config)
    settle_generation(model, processor.tokenizer, processor.chat_template)
    return model.eval(), processor


register()
