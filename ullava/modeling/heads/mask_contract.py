"""The contract of a mask head. The rest of the flow sees nothing else of it, and never asks which one it has.

A head has a part with weights, ``MaskHead``: it embeds the images of a batch once and decodes a mask for each ``[SEG]``
state. And it has a part without, ``MaskRules``, which lives in the processor and the criterion: what the encoder is
shown of an image, and how the low-resolution plane of logits maps to the original image and back. Training and
inference make masks through the same two parts.

A head has an image encoder of its own, or it reads the pyramid of maps that the vision tower made of the images anyway
(``mask.encoder: vision``); then its view is the vision strategy's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ullava.examples import HeadImages
from ullava.structures import ImageArray

Pyramid = tuple[torch.Tensor, ...]
"""Maps [I, C, h, w] of the distinct images of a batch, finest first, each of twice the stride of the one before."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedMasks:
    """K masks: logits [K, h, w] on the head's low-resolution plane, and how good the head thinks each is, [K].

    ``presence_logits`` [K]: of the thing being in the image at all; None where the head does not tell.
    """

    mask_logits_lowres: torch.Tensor
    scores: torch.Tensor
    presence_logits: torch.Tensor | None = None

    def calibrated(self, scale: float, shift: float) -> DecodedMasks:
        """The same masks, of a presence ``scale * logit + shift``, where the head tells it."""
        if self.presence_logits is None or (scale, shift) == (1.0, 0.0):
            return self
        return replace(self, presence_logits=scale * self.presence_logits.float() + shift)

    def parted(self, count: int) -> tuple[DecodedMasks, DecodedMasks]:
        """Return the first ``count`` masks and the others."""
        told = self.presence_logits
        return (
            DecodedMasks(self.mask_logits_lowres[:count], self.scores[:count], None if told is None else told[:count]),
            DecodedMasks(self.mask_logits_lowres[count:], self.scores[count:], None if told is None else told[count:]),
        )


class MaskHead(nn.Module, ABC):
    """The part with weights. ``plane_hw``: height and width of its low-resolution plane.

    ``reads_pyramid``: it has no image encoder and reads the vision tower's maps.
    """

    plane_hw: tuple[int, int]
    reads_pyramid = False

    def init_new_weights(self) -> None:  # noqa: B027 (most have nothing to set)
        """Set starting values of a head without pretrained weights, where transformers' own do not do."""

    @abstractmethod
    def embed(self, images: HeadImages | Pyramid, rows: torch.Tensor) -> Any:
        """Run the image encoder once on rows ``rows`` of ``images``; what it returns is ``decode``'s own business.

        Without trainable weights in the encoder no graph is kept.
        """

    @abstractmethod
    def decode(
        self,
        states: torch.Tensor,
        features: Any,
        image_of_state: torch.Tensor,
        content_hw: tuple[int, int] | None = None,
    ) -> DecodedMasks:
        """Decode one mask for each of K states [K, D], on the ``image_of_state`` [K]-th of the embedded images.

        ``content_hw``: no image reaches further down or right in the encoder's view than this; logits well outside,
        which the rules cut off with the padding, may be left at 0. None = all are wanted.
        """

    def none(self, like: torch.Tensor) -> DecodedMasks:
        """No mask at all, of the dtype and device of ``like``."""
        return DecodedMasks(like.new_zeros(0, *self.plane_hw), like.new_zeros(0))


class MaskRules(ABC):
    """The part without weights. ``side``: of the square that the encoder sees, in pixels.

    ``tells_presence``: the head says whether a thing is there, and is taught so by masks that are empty.
    """

    side: int
    tells_presence = False

    @property
    def view_name(self) -> str:
        """All that ``view`` depends on beside the image, as a name."""
        return f"{type(self).__name__} {self.side}"

    @abstractmethod
    def content_hw(self, original_hw: Sequence[int]) -> tuple[int, int]:
        """Height and width that an image of ``original_hw`` covers of the square: those of its view."""

    @abstractmethod
    def view(self, image_rgb_u8: ImageArray) -> NDArray[np.uint8] | None:
        """What the encoder is shown of an image uint8 [H, W, 3], before padding and normalization: uint8 [3, h, w].

        None where the head reads the vision tower's maps: it sees what that one is shown.
        """

    @abstractmethod
    def to_original(self, mask_logits_lowres: torch.Tensor, original_hw: Sequence[int]) -> torch.Tensor:
        """Logits [k, h, w] of masks on images of one size -> fp32 [k, H, W] of the original image."""

    @abstractmethod
    def covered(self, mask_logits_lowres: torch.Tensor, original_hw: Sequence[int]) -> torch.Tensor:
        """The fp32 part [k, h', w'] of the low-resolution plane that an image of ``original_hw`` covers."""

    @abstractmethod
    def score(self, mask_logits_orig: torch.Tensor, score: float) -> float:
        """The score in [0, 1] of a mask whose logits [H, W] the head itself gave ``score``."""
