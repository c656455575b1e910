"""The records of masks in videos between data and model, as those of ullava.examples, which they are part of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ullava.structures import MaskArray


@dataclass(frozen=True, slots=True)
class ClipTarget:
    """What a ``[SEG]`` that speaks of a video of which T ``frames`` are seen is taught.

    ``masks``: bool [H, W] by the number of the frame among the T, of the frames that are annotated, one without a pixel
    where the thing is not there. ``prompt``: the frame in which the state prompts the mask.
    """

    masks: Mapping[int, MaskArray]
    prompt: int
    frames: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ClipFrames:
    """The frames of a batch's videos in which masks are taught: K ``[SEG]`` speak of videos, in reading order.

    ``annotated`` bool [K, T]: the frames that each is judged in; ``prompt`` [K]: the one that its state prompts.
    ``pixels`` uint8 [J, 3, h, w] with content of ``sizes`` [J, 2] at the top left: what a mask head's own encoder sees,
    T rows for each video from ``first_row`` [V] on (-1 = none); None where the head reads the vision tower's maps of
    the video's own views.
    """

    annotated: torch.Tensor
    prompt: torch.Tensor
    pixels: torch.Tensor | None = None
    sizes: torch.Tensor | None = None
    first_row: torch.Tensor | None = None
