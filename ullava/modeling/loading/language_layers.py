"""``language.num_layers``: the first layers of a pretrained language model, in its config and among its weights.

The layers that are left out are known by the names of their weights, so that everything else in a file is still judged.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ullava.modeling.loading.pretrained import read_config
from ullava.modeling.loading.strict_loading import read_part

COUNT = "num_hidden_layers"
LISTS = ("layer_types", "mlp_layer_types", "no_rope_layers")
"""Keys of a config that say something of each layer, one after the other."""


def first_layers(config: PreTrainedConfig, number: int) -> PreTrainedConfig:
    """A copy of ``config`` with its first ``number`` layers, of as many as it has or fewer."""
    cut = copy.deepcopy(config)
    for key in LISTS:
        value = getattr(cut, key, None)
        if isinstance(value, list):
            setattr(cut, key, value[:number])
    setattr(cut, COUNT, number)
    return cut


def read_language(folder: Path, num_layers: int | None = None) -> dict[str, Tensor]:
    """The weights of the causal language model in ``folder``, of its first ``num_layers`` layers; see ``read_part``."""
    if num_layers is None:
        return read_part(AutoModelForCausalLM, folder)
    whole = read_config(folder)
    kept = first_layers(whole, num_layers)
    return read_part(AutoModelForCausalLM, folder, config=kept, beside=_left_out(whole, kept))


def _left_out(whole: PreTrainedConfig, kept: PreTrainedConfig) -> list[str]:
    """Names of the weights that ``whole`` has and ``kept`` has not; files of a bare network lack the prefix."""
    with torch.device("meta"):
        models = [AutoModelForCausalLM.from_config(config) for config in (whole, kept)]
    names = sorted(models[0].state_dict().keys() - models[1].state_dict().keys())
    prefix = f"{models[0].base_model_prefix}."
    return names + [name.removeprefix(prefix) for name in names]
