"""``mask_cache`` of a recipe: what a frozen mask encoder makes of images, kept on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ullava.config.fields import above


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskCacheConfig:
    """The maps of images are kept between epochs, runs and evaluations (docs/training.md).

    ``dir``: the folder, which several runs and processes may share. ``max_gb``: how large it may become, in units of
    1000^3 bytes; what was not read for the longest time makes room. ``dtype``: what the maps are kept in. ``float32``
    gives them back exactly; ``float16`` takes half of the room.
    """

    dir: str
    max_gb: float = field(default=50.0, metadata=above(0))
    dtype: Literal["float32", "float16"] = "float32"
