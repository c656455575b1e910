"""``augment`` of a dataset entry: what training changes in images, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ullava.config.fields import at_least

SHARE = at_least(0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Augmentations by their usual names (docs/photo_data.md); the first line of each is a probability, 0 = never.

    ``flip``: torchvision's RandomHorizontalFlip; "left" and "right" in the words are turned too.
    ``crop``: RandomResizedCrop: ``crop_scale`` is the share of the image's area that is kept, ``crop_ratio`` how its
    width to height changes. Every object that is asked for keeps ``min_visible`` of its own area.
    ``copy_paste``: an object of another image is laid into this one (ullava.data.augment.paste).
    ``color``: ColorJitter: ``brightness``, ``contrast`` and ``saturation`` are multiplied by 1 - x to 1 + x.
    """

    flip: float = field(default=0.0, metadata=SHARE)
    crop: float = field(default=0.0, metadata=SHARE)
    crop_scale: list[float] = field(default_factory=lambda: [0.5, 1.0])
    crop_ratio: list[float] = field(default_factory=lambda: [0.75, 4 / 3])
    min_visible: float = field(default=0.75, metadata=SHARE)
    copy_paste: float = field(default=0.0, metadata=SHARE)
    color: float = field(default=0.0, metadata=SHARE)
    brightness: float = field(default=0.2, metadata=SHARE)
    contrast: float = field(default=0.2, metadata=SHARE)
    saturation: float = field(default=0.2, metadata=SHARE)

    def __post_init__(self) -> None:
        """Refuse ranges that are none (ValueError)."""
        if not _is_range(self.crop_scale) or self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale is a least and a most share of the area, above 0 to 1, not {self.crop_scale}")
        if not _is_range(self.crop_ratio):
            raise ValueError(f"crop_ratio is a least and a most change of width to height, not {self.crop_ratio}")


def refuse_augment(entries: Mapping[str, Any], key: str) -> None:
    """Raise ValueError where an entry of an evaluation (the recipe's table ``key``) has what is for training alone."""
    for name, entry in entries.items():
        if entry.augment is not None:
            raise ValueError(
                f"{key}.{name}.augment: images are augmented in training only; evaluation takes them whole"
            )
        if entry.absent_as is not None:
            raise ValueError(f"{key}.{name}.absent_as: is how training answers; leave it out of an evaluation")


def _is_range(values: list[float]) -> bool:
    return len(values) == 2 and 0 < values[0] <= values[1]
