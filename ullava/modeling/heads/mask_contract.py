"""The contract of a mask head. The rest of the flow sees nothing else of it, and never asks which one it has.

A head has a part with weights, ``MaskHead``: it embeds the images of a batch once and decodes a mask for each ``[SEG]``
state. And it has a part without, ``MaskRules``, which lives in the processor and the criterion: what the encoder is
shown of an image, and how the low-resolution plane of logits maps to the original image and back. Training and
inference make masks through the same two parts.

A head has an image encoder of its own, or it reads the pyramid of maps that the vision tower made of the images anyway
(``mask.encoder: vision``); then its view is the vision strategy's.

A head that also carries a mask through the frames of a clip is a ``VideoMaskHead``. What runs over a clip with it, in
training and in answers, is ``ullava.modeling.heads.clip_masks``.
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

from ullava.errors import UserError
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

    def taken(self, places: torch.Tensor) -> DecodedMasks:
        """Return those at ``places`` [k], in that order."""
        told = self.presence_logits
        return DecodedMasks(
            self.mask_logits_lowres[places], self.scores[places], None if told is None else told[places]
        )

    @classmethod
    def joined(cls, parts: Sequence[DecodedMasks]) -> DecodedMasks:
        """Return the masks of one head's several ``parts``, one behind the other."""
        told = [part.presence_logits for part in parts if part.presence_logits is not None]
        return cls(
            torch.cat([part.mask_logits_lowres for part in parts]),
            torch.cat([part.scores for part in parts]),
            torch.cat(told) if told else None,
        )

    def parted(self, count: int) -> tuple[DecodedMasks, DecodedMasks]:
        """Return the first ``count`` masks and the others."""
        told = self.presence_logits
        return (
            DecodedMasks(self.mask_logits_lowres[:count], self.scores[:count], None if told is None else told[:count]),
            DecodedMasks(self.mask_logits_lowres[count:], self.scores[count:], None if told is None else told[count:]),
        )


class MaskHead(nn.Module, ABC):
    """The part with weights. ``plane_hw``: height and width of its low-resolution plane.

    ``reads_pyramid``: it has no image encoder and reads the vision tower's maps. ``makes_several``: it has ``several``.
    ``map_width``: of the coarsest map that it decodes from.
    """

    plane_hw: tuple[int, int]
    map_width: int
    reads_pyramid = False
    makes_several = False

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

    def several(
        self,
        states: torch.Tensor,
        features: Any,
        image_of_state: torch.Tensor,
        boxes_xyxy_view: torch.Tensor | None = None,
    ) -> DecodedMasks:
        """Decode other masks than ``decode``'s for each of K states: logits [K, M, h, w], scores [K, M].

        Without boxes those that the decoder offers for prompts that may mean several things (M is 3 in SAM); with them,
        [K, 4] in pixels of the encoder's square, the one mask of state and box together (M is 1).

        Raises UserError in heads that have neither.
        """
        raise UserError(
            f"candidates: {'multimask' if boxes_xyxy_view is None else 'box'}: this model's mask head decodes one mask "
            "a state and reads no boxes (docs/candidates.md)"
        )

    def coarse_map(self, features: Any) -> torch.Tensor:
        """Of what ``embed`` made of I images, the map [I, C, h, w] that is the coarsest."""
        planes = [features] if isinstance(features, torch.Tensor) else list(features)
        return min(planes, key=lambda plane: plane.shape[-1])

    def taken(self, features: Any, places: torch.Tensor) -> Any:
        """Of what ``embed`` made of several images, that of those at ``places`` [k], in that order."""
        if isinstance(features, torch.Tensor):
            return features[places]
        return [plane[places] for plane in features]

    def none(self, like: torch.Tensor) -> DecodedMasks:
        """No mask at all, of the dtype and device of ``like``."""
        return DecodedMasks(like.new_zeros(0, *self.plane_hw), like.new_zeros(0))


@dataclass(frozen=True, slots=True, eq=False)
class Tracked:
    """K things in one frame, and the memory that the next frame, later or earlier, is read with."""

    masks: DecodedMasks
    memory: Any


class VideoMaskHead(MaskHead):
    """A head that carries things from frame to frame by a memory of those it has seen.

    A memory is a value: a step makes another one and leaves the one that it was given, so that one start can be carried
    both ways through time. It stays of bounded size however long the clip is. ``detached`` is the same one, from which
    no gradient runs back into earlier frames.
    """

    @abstractmethod
    def start(self, frame: Any, states: torch.Tensor) -> Tracked:
        """Let K states [K, D] prompt masks in a frame, and begin their memory. The masks are those of ``decode``.

        ``frame``: one image for all of them, or one for each, as ``embed`` returns it.
        """

    @abstractmethod
    def step(self, frame: Any, memory: Any) -> Tracked:
        """Find the same K things in the next frame, one for all or one for each, by the memory alone."""

    @abstractmethod
    def detached(self, memory: Any) -> Any:
        """The same memory without its history of gradients."""


def video_head(head: MaskHead, kind: str) -> VideoMaskHead:
    """``head``, of ``mask.kind`` ``kind``, as one that has a memory. Raises UserError where it has none."""
    if not isinstance(head, VideoMaskHead):
        raise UserError(
            f"mask.kind {kind} has no memory of frames, so it carries no masks through a clip; sam2_video and "
            "edgetam_video do, and every head can be asked anew in all frames (clip_masks frames; docs/video.md)"
        )
    return head


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
