"""The rules of a mask head that reads the vision tower's maps: its view of an image is the vision strategy's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ullava.errors import UserError
from ullava.geometry import View, ViewKind, plan_view
from ullava.geometry.mask_resize import covered_of_view, view_to_original
from ullava.modeling.heads.mask_contract import MaskRules
from ullava.structures import ImageArray

WHOLE_VIEWS: dict[str, ViewKind] = {"pad": "pad_center", "stretch": "stretch"}
"""``vision.image_aspect_ratio`` -> kind of view, of those that show the whole image."""


class VisionViewRules(MaskRules):
    """Masks on the plane of the strategy's square of ``side`` pixels, into which ``image_aspect_ratio`` fits an image.

    Raises UserError for an aspect that does not show the whole image: there would be no mask outside.
    """

    tells_presence = True

    def __init__(self, side: int, image_aspect_ratio: str) -> None:
        if image_aspect_ratio not in WHOLE_VIEWS:
            raise UserError(
                "mask.encoder vision needs a view of the whole image: "
                f"vision.image_aspect_ratio {' or '.join(WHOLE_VIEWS)}, not {image_aspect_ratio}"
            )
        self.side = side
        self.kind = WHOLE_VIEWS[image_aspect_ratio]

    def view(self, image_rgb_u8: ImageArray) -> None:
        """See MaskRules; nothing beside what the vision tower is shown."""

    def geometry(self, original_hw: Sequence[int]) -> View:
        """Where an image of ``original_hw`` lies in the square."""
        return plan_view(self.kind, (original_hw[1], original_hw[0]), self.side)

    def to_original(self, mask_logits_lowres: torch.Tensor, original_hw: Sequence[int]) -> torch.Tensor:
        """See MaskRules; bilinear between the plane's cells."""
        return view_to_original(mask_logits_lowres, self.geometry(original_hw))

    def covered(self, mask_logits_lowres: torch.Tensor, original_hw: Sequence[int]) -> torch.Tensor:
        """See MaskRules."""
        return covered_of_view(mask_logits_lowres, self.geometry(original_hw))

    def score(self, mask_logits_orig: torch.Tensor, score: float) -> float:
        """How likely the thing is there, times how well its mask should fit."""
        return float(min(max(score, 0.0), 1.0))
