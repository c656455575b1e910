"""The contract of a vision strategy (spec/siblings.md 5.2-5.3). The language side sees nothing else of a front-end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ullava.geometry import View


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How many visual tokens an item gives: exact when ``low == high``, otherwise settled by ``encode``."""

    low: int
    high: int

    @property
    def exact(self) -> bool:
        """Whether the processor may write the placeholders before the network ran."""
        return self.low == self.high


@dataclass(frozen=True, slots=True)
class VisionInputs:
    """One preprocessed item: uint8 views [3, h, w] by name, the View (geometry) of each, and its token count.

    ``grid_hw``: rows and columns, where the tokens are patches that share out the view ``base``, row by row.
    """

    views: Mapping[str, NDArray[np.uint8]]
    geometry: Mapping[str, View]
    count: TokenCount
    grid_hw: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class VideoInputs:
    """The frames of one video, preprocessed alike: uint8 views [T, 3, h, w] by name, and how many tokens they give."""

    views: Mapping[str, NDArray[np.uint8]]
    count: TokenCount


@dataclass(frozen=True, slots=True)
class VisionOutput:
    """Visual tokens of a batch of items: ``tokens`` [sum(counts), D], ``counts`` per item in the order given.

    ``aux`` are named loss terms of the strategy (a router's, say), ``diagnostics`` named numbers for the log.
    """

    tokens: torch.Tensor
    counts: tuple[int, ...]
    aux: Mapping[str, torch.Tensor] = field(default_factory=dict)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)


class VisionPreprocessor(Protocol):
    """The part that runs in data workers: pure, picklable, without weights."""

    view_names: tuple[str, ...]

    def preprocess(self, image_rgb_u8: NDArray[np.uint8]) -> VisionInputs:
        """Make the views of one picture, uint8 [H, W, 3]."""
        ...

    def preprocess_video(self, frames_rgb_u8: NDArray[np.uint8], *, as_released: bool = False) -> VideoInputs:
        """Make the views of the frames of one video, uint8 [T, H, W, 3]; ``as_released``: resized as u-LLaVA does."""
        ...


class VisionStrategy(Protocol):
    """The part with weights; an ``nn.Module``."""

    def encode(self, views: Mapping[str, torch.Tensor], force: Mapping[str, Any] | None = None) -> VisionOutput:
        """Encode stacked uint8 views (name -> [I, 3, h, w]); ``force`` carries user overrides, unknown keys raise.

        The result for an item must not depend on the others in the batch.
        """
        ...

    def encode_video(self, views: Mapping[str, torch.Tensor], force: Mapping[str, Any] | None = None) -> VisionOutput:
        """Encode stacked uint8 views of videos (name -> [V, T, 3, h, w]) under the same rules."""
        ...

    def encode_dummy(self) -> torch.Tensor:
        """A zero that depends on every trainable weight, for batches without pictures (keeps ranks in step)."""
        ...

    def frozen_eval_modules(self) -> list[torch.nn.Module]:
        """Modules that stay in eval mode, without gradient, unless a stage trains them."""
        ...
