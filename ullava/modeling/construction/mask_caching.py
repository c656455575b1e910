"""Gives a model and its processor the cache that a recipe's ``mask_cache`` asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ullava.config.mask_cache import MaskCacheConfig
from ullava.errors import ConfigError
from ullava.modeling.heads.map_store import MapStore
from ullava.modeling.heads.mask_cache import MaskCache, encoder_key
from ullava.modeling.heads.mask_encoder import EncodingMaskHead

GB = 1000**3


def use_mask_cache(
    model: Any, processor: Any, config: MaskCacheConfig, *, device: str, autocast: str | None = None
) -> MaskCache:
    """Let ``processor`` look maps up and the mask head of ``model`` keep them; return the cache, which counts both.

    ``device``: the kind that the encoder runs on; ``autocast``: the type to which it is cast there, None = its own. The
    weights have to be whole and what they will be. Raises ConfigError for a mask head without an encoder of its own
    and a folder without locks, UserError for one that cannot be written.
    """
    head = model.mask_head
    if not isinstance(head, EncodingMaskHead):
        raise ConfigError(
            "mask_cache: the mask head reads the vision tower's maps and has no encoder whose work could be kept; "
            "leave mask_cache out"
        )
    store = MapStore(Path(config.dir), int(config.max_gb * GB), getattr(torch, config.dtype))
    store.open()
    run_with = {"device": device, "autocast": autocast}
    cache = MaskCache(store, encoder_key(head.encoder, processor.masks, store, run_with))
    head.cache = processor.mask_cache = cache
    return cache
