"""Low-rank adapters of a folder put back around the language model that they were trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ullava.errors import UserError, WeightsError
from ullava.modeling.loading.pretrained import reading
from ullava.modeling.loading.weight_files import read_shapes, read_table

ADAPTER_FILE = "adapter_model.safetensors"
SETTINGS_FILE = "adapter_config.json"
CODE_SETTING = "megatron_config"
"""The key with which peft's settings let it import the module that they name beside it."""
LORA_MARK = ".lora_"
WRAPPED = ".base_layer."
"""How peft names what an adapter was put around: ``q_proj.base_layer.weight`` is the model's ``q_proj.weight``."""


def read_adapters(language_model: nn.Module, folder: Path, trainable: bool = False) -> Any:
    """peft's handle on the adapters in ``folder``, which have to be those that its settings describe.

    The layers are replaced in place. Raises UserError for settings that name code, WeightsError for damaged files and
    adapters that do not fit.
    """
    import peft

    settings = folder / SETTINGS_FILE
    if read_table(settings).get(CODE_SETTING) is not None:
        raise UserError(f"{settings}: {CODE_SETTING}: this folder names Python to import, which ullava never does")
    stored = read_shapes(folder / ADAPTER_FILE)
    with reading(settings):
        adapters = peft.PeftModel.from_pretrained(language_model, str(folder), is_trainable=trainable)
        wanted = adapter_weights(adapters)
    wrong = sorted(stored.keys() ^ wanted.keys())
    wrong += [name for name, value in wanted.items() if name in stored and stored[name].shape != tuple(value.shape)]
    if wrong:
        raise WeightsError([f"{folder / ADAPTER_FILE}: {name}: not as {SETTINGS_FILE} says" for name in wrong])
    return adapters


def adapter_weights(adapters: Any) -> dict[str, Tensor]:
    """The weights of ``adapters`` (peft's handle) by their names in its file.

    Without the tables of words: peft would add them where the vocabulary grew, but their rows are kept elsewhere.
    """
    import peft

    found: dict[str, Tensor] = peft.get_peft_model_state_dict(adapters, save_embedding_layers=False)
    return found
