"""Sizes of published networks, by the name of the folder that a ``model.yaml`` expects them in.

With them the sizes of a whole system can be told where its weights are not at hand (``ullava show NAME --sizes``).
Figures are those of the published config files. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from ullava.config.vision import PartConfig
from ullava.errors import ConfigError, did_you_mean

_LLAMA_7B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
}  # fmt: skip
_CLIP_LARGE = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "patch_size": 14,
}  # fmt: skip
_CONVNEXT_LARGE = {"num_stages": 4, "hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]}
_SAM_HUGE = {
    "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "mlp_dim": 5120,
    "global_attn_indexes": [7, 15, 23, 31],
}  # fmt: skip

KNOWN_PARTS: Mapping[str, Mapping[str, Any]] = {
    "vicuna_7b_v1.1": _LLAMA_7B | {"max_position_embeddings": 2048},
    "vicuna_7b_v1.5": _LLAMA_7B,
    "llama3_8b_instruct": _LLAMA_7B
    | {"intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192},
    "clip-vit-large-patch14": _CLIP_LARGE | {"image_size": 224},
    "clip-vit-large-patch14-336": _CLIP_LARGE | {"image_size": 336},
    "convnext_large_clip_320": {"model_type": "convnext", **_CONVNEXT_LARGE},
    "convnext_large_laion": _CONVNEXT_LARGE,
    "sam_vit_h_4b8939": {"vision_config": _SAM_HUGE},
}
"""Folder name -> its config in transformers' words (``model_type`` where nothing else tells it)."""


def with_known_sizes(config: Any, folder: Path) -> Any:
    """Return a config (a dataclass of ``ullava.config``) whose parts without their files are spelt out in sizes.

    Parts whose ``path`` (below ``folder``) is there stay as they are. Raises ConfigError for one that is neither there
    nor known.
    """
    problems: list[str] = []
    spelt = _spelt(config, folder, problems)
    if problems:
        raise ConfigError(problems)
    return spelt


def _spelt(value: Any, folder: Path, problems: list[str]) -> Any:
    if isinstance(value, PartConfig):
        if value.path is None or (folder / value.path).exists():
            return value
        name = Path(value.path).name
        if name not in KNOWN_PARTS:
            where = folder / value.path
            problems.append(f"{where} is not there, and its sizes are not known{did_you_mean(name, KNOWN_PARTS)}")
            return value
        return PartConfig(config={**KNOWN_PARTS[name], **value.config})
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{e.name: _spelt(getattr(value, e.name), folder, problems) for e in fields(value)})
    return value
