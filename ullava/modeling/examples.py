"""What the processor makes of a sample, before batching: NumPy only, so that it crosses worker pipes cheaply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ullava.geometry import View
from ullava.modeling.vision.strategy import TokenCount
from ullava.structures import MaskArray


@dataclass(frozen=True, slots=True)
class ImageExample:
    """One picture as the network wants it. ``key`` tells equal pictures of a batch; ``sam_u8`` is None if not needed.

    ``views``, ``count``, ``grid_hw``, ``shrunk``: see VisionInputs. ``sam_u8``: uint8 [3, h, w], resized to the long
    side S, not padded. ``box_u8``: uint8 [3, h, w], the view of
    the box head, None if it has none of its own; its geometry is ``geometry["box"]``.
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


@dataclass(frozen=True, slots=True)
class VideoExample:
    """One video as the network wants it: ``views`` and ``count`` of VideoInputs; the rest as in ImageExample."""

    key: str
    views: Mapping[str, NDArray[Any]]
    count: TokenCount


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a batch.

    ``input_ids``, ``labels`` [L] with visual placeholders in full, a single one where only the network settles how many
    there are; ``instruction_ids`` [t]: the words that are not the assistant's, without placeholders and their marks,
    for a strategy that reads them; ``grounded``: the row asks for masks or boxes; ``masks`` bool [H, W] for each
    ``[SEG]`` in order (the same array object where things repeat); ``boxes_xyxy_head`` [K, 4] in the box head's frame
    for each ``[LOC]``.
    ``patch_words``: [N, w] ids of the words of each visual token of the first picture (see ullava.modeling.patches).
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
