"""The records of one row before batching: NumPy arrays, so that they cross worker pipes cheaply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ullava.clip_examples import ClipTarget
from ullava.geometry import View
from ullava.structures import MaskArray

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How many visual tokens an item gives: exact when ``low == high``, otherwise settled by the network."""

    low: int
    high: int

    @property
    def exact(self) -> bool:
        """Whether the processor may write the placeholders before the network ran."""
        return self.low == self.high


@dataclass(frozen=True, slots=True, eq=False)
class MaskEntry:
    """Where the maps that the mask head's encoder makes of an image are kept (ullava.modeling.heads.mask_cache).

    ``name``: of the entry. ``view_hw``: height and width of what the encoder is shown, before padding. ``maps``: [C, h,
    w] each, as they were made; None where they are not there yet, or ``damaged``.
    """

    name: str
    view_hw: tuple[int, int]
    maps: tuple[torch.Tensor, ...] | None = None
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class ImageExample:
    """One image as the network wants it. ``key`` tells equal images of a batch; ``sam_u8`` is None if not needed.

    ``for_heads``: it has the views of the heads that have some of their own. ``mask_entry``: where the mask encoder's
    maps are kept, None = nowhere; with maps in it there is no ``sam_u8``.

    ``views``, ``count``, ``grid_hw``, ``shrunk``, ``text``: see VisionInputs. ``sam_u8``: uint8 [3, h, w],
    resized to the long side S, not padded. ``box_u8``: uint8 [3, h, w], the view of the box head, None if it has none
    of its own; its geometry is ``geometry["box"]``.
    """

    key: str
    original_hw: tuple[int, int]
    views: Mapping[str, NDArray[Any]]
    geometry: Mapping[str, View]
    count: TokenCount
    sam_u8: NDArray[np.uint8] | None
    grid_hw: tuple[int, int] | None = None
    box_u8: NDArray[np.uint8] | None = None
    shrunk: bool = False
    for_heads: bool = False
    mask_entry: MaskEntry | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class VideoExample:
    """One video as the network wants it: ``views``, ``count``, ``text`` of VideoInputs; the rest as in ImageExample.

    ``path``: its file, for masks in all of its frames. ``sam_u8``: the views [3, h, w] of its T frames for a mask head
    with an encoder of its own, where masks are taught; empty otherwise.
    """

    key: str
    views: Mapping[str, NDArray[Any]]
    count: TokenCount
    path: Path | None = None
    sam_u8: tuple[NDArray[np.uint8], ...] = ()
    text: str | None = None


@dataclass(frozen=True, slots=True)
class RegionExample:
    """One region that a question points at, as the network wants it.

    ``image``: its image's place in the row. ``box_xyxy_view``: float32 [4], fractions of the view ``base``, all of it
    within. ``shares``: float32 [n, n], how much of each of the n x n fields of its box belongs to it; None = all.
    """

    image: int
    box_xyxy_view: NDArray[np.float32]
    shares: NDArray[np.float32] | None
    count: TokenCount


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a batch.

    ``input_ids``, ``labels`` [L] with visual placeholders in full, a single one where only the network settles how many
    there are; ``instruction_ids`` [t]: the words that are not the assistant's, without placeholders and their marks,
    for a strategy that reads them; ``grounded``: the row asks for masks or boxes; ``masks`` bool [H, W] for each
    ``[SEG]`` in order (the same array object where things repeat); ``boxes_xyxy_head`` [K, 4] in the box head's frame
    for each ``[LOC]``; ``clip_targets``: for each ``[SEG]`` of a row whose ``[SEG]`` speak of its video.
    ``patch_words``: [N, w] ids of the words of each visual token of the first image (see
    ullava.modeling.vision.patches). ``regions``: what the questions point at, in reading order.
    """

    name: str
    dataset: str
    task: str
    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    images: tuple[ImageExample, ...]
    masks: tuple[MaskArray, ...]
    boxes_xyxy_head: NDArray[np.float32]
    patch_words: NDArray[np.int64] | None = None
    videos: tuple[VideoExample, ...] = ()
    instruction_ids: NDArray[np.int64] | None = None
    grounded: bool = False
    regions: tuple[RegionExample, ...] = ()
    clip_targets: tuple[ClipTarget, ...] = ()


@dataclass(frozen=True, slots=True)
class BadSample:
    """A sample that could not be used; it is counted and named, never replaced."""

    name: str
    reason: str
