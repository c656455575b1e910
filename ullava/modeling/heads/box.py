"""``[LOC]`` state -> projector -> region decoder -> four numbers (u-LLaVA, arXiv 2311.05348)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ullava.examples import HeadImages
from ullava.geometry import norm_to_px, padsq_to_px, px_to_norm, px_to_padsq
from ullava.geometry.box_tensors import corners_of_centers
from ullava.modeling.heads.box_contract import BoxHead, Candidates
from ullava.modeling.heads.projector import two_layer_projector


class RegressionBoxHead(BoxHead):
    """Projector of its own and three linear layers.

    With ``sigmoid`` the outputs are center, width and height in [0, 1], turned into corners, so a box can neither be
    inverted nor run away; without it they are u-LLaVA's raw corners.
    """

    def __init__(self, width_in: int, *, width: int, sigmoid: bool) -> None:
        super().__init__()
        self.sigmoid = sigmoid
        self.projector = two_layer_projector(width_in, width)
        self.decoder = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 4)
        )

    def forward(
        self, states: torch.Tensor, rows: torch.Tensor | None = None, images: HeadImages | None = None
    ) -> tuple[Candidates, ...]:
        """States [K, D] -> one box each, xyxy [K, 1, 4] in the head's frame (``box_frame`` of the config), fp32."""
        raw = self.decoder(self.projector(states)).float()
        if self.sigmoid:
            raw = corners_of_centers(raw.sigmoid())
        return (Candidates(raw[:, None], raw.new_zeros(len(raw), 1)),)


def to_head_frame(boxes_xyxy_px: NDArray[np.float64], size_wh: tuple[int, int], frame: str) -> NDArray[np.float64]:
    """Original pixels -> the head's frame (``norm`` or ``padsq``)."""
    return px_to_norm(boxes_xyxy_px, size_wh) if frame == "norm" else px_to_padsq(boxes_xyxy_px, size_wh)


def from_head_frame(boxes_xyxy_head: NDArray[np.float64], size_wh: tuple[int, int], frame: str) -> NDArray[np.float64]:
    """The head's frame -> original pixels, cut at the image's border."""
    back = norm_to_px if frame == "norm" else padsq_to_px
    return np.clip(back(boxes_xyxy_head, size_wh), 0.0, np.tile(np.asarray(size_wh, dtype=np.float64), 2))
