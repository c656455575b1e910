"""The rules of mask heads whose view shows the whole image: the vision strategy's, or a square of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ullava.errors import UserError
from ullava.geometry import View, ViewKind, plan_view, resized_hw
from ullava.geometry.mask_resize import covered_of_view, view_to_original
from ullava.modeling.heads.mask_contract import MaskRules
from ullava.modeling.pixels import resize_planes_u8
from ullava.structures import ImageArray

WHOLE_VIEWS: dict[str, ViewKind] = {"pad": "pad_center", "stretch": "stretch"}
"""``vision.image_aspect_ratio`` -> kind of view, of those that show the whole image."""


class WholeViewRules(MaskRules):
    """Masks on the plane of a square of ``side`` pixels, into which a view of ``kind`` fits the image."""

    tells_presence = True

    def __init__(self, side: int, kind: ViewKind) -> None:
        self.side = side
        self.kind = kind

    def geometry(self, original_hw: Sequence[int]) -> View:
        """Where an image of ``original_hw`` lies in the square."""
        return plan_view(self.kind, (original_hw[1], original_hw[0]), self.side)

    def content_hw(self, original_hw: Sequence[int]) -> tuple[int, int]:
        """See MaskRules."""
        return resized_hw(self.geometry(original_hw))

    def to_original(self, mask_logits_lowres: torch.Tensor, original_hw: Sequence[int]) -> torch.Tensor:
        """See MaskRules; bilinear between the plane's cells."""
        return view_to_original(mask_logits_lowres, self.geometry(original_hw))

    def covered(self, mask_logits_lowres: torch.Tensor, original_hw: Sequence[int]) -> torch.Tensor:
        """See MaskRules."""
        return covered_of_view(mask_logits_lowres, self.geometry(original_hw))

    def score(self, mask_logits_orig: torch.Tensor, score: float) -> float:
        """How likely the thing is there, times how well its mask should fit."""
        return float(min(max(score, 0.0), 1.0))


class VisionViewRules(WholeViewRules):
    """The view is the strategy's own, into which ``image_aspect_ratio`` fits an image.

    Raises UserError for an aspect that does not show the whole image: there would be no mask outside.
    """

    def __init__(self, side: int, image_aspect_ratio: str) -> None:
        if image_aspect_ratio not in WHOLE_VIEWS:
            raise UserError(
                "mask.encoder vision needs a view of the whole image: "
                f"vision.image_aspect_ratio {' or '.join(WHOLE_VIEWS)}, not {image_aspect_ratio}"
            )
        super().__init__(side, WHOLE_VIEWS[image_aspect_ratio])

    def view(self, image_rgb_u8: ImageArray) -> None:
        """See MaskRules; nothing beside what the vision tower is shown."""


class StretchedViewRules(WholeViewRules):
    """The image is squeezed to the square, as SAM 2 and EdgeTAM were trained."""

    def __init__(self, side: int) -> None:
        super().__init__(side, "stretch")

    def view(self, image_rgb_u8: ImageArray) -> NDArray[np.uint8]:
        """See MaskRules; bilinear, antialiased, as in SAM 2."""
        return resize_planes_u8(image_rgb_u8, self.side, self.side, "bilinear")
