"""``[LOC]`` state -> the mask head's decoder -> where the mask begins and ends: a box for which no box is regressed.

What masks teach about where things are teaches boxes as well, and the other way round: BoxInst (Tian et al.,
arXiv 2012.02310) judges a mask's projections on both axes against a box. Here a few convolutions along each axis read
the projections and say, cell by cell, how likely the box begins or ends there; an edge is the mean of that (a soft
argmax). Both axes share them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ullava.errors import UserError
from ullava.modeling.cpu.convolutions import outside_autocast
from ullava.modeling.heads.box_contract import BoxHead, Candidates

KERNEL = 7
FAR = 4
"""Dilation of the last convolution that looks around: on a plane of 64 cells it sees most of them."""
PROJECTIONS = 2
"""Of a mask on one axis: its largest logit and how much of it lies there."""


class MaskBoxHead(BoxHead):
    """Reads the planes that the mask head decodes of ``[LOC]`` states; ``width``: channels of its convolutions."""

    reads_masks = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.edges = nn.Sequential(
            nn.Conv1d(PROJECTIONS, width, KERNEL, padding=KERNEL // 2),
            nn.GELU(),
            nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2),
            nn.GELU(),
            nn.Conv1d(width, width, KERNEL, padding=FAR * (KERNEL // 2), dilation=FAR),
            nn.GELU(),
            nn.Conv1d(width, 2, 1),
        )

    def forward(self, mask_logits_lowres: Tensor) -> tuple[Candidates, ...]:
        """Planes [K, h, w] -> one box each, xyxy [K, 1, 4] as shares of the plane, corners in order, fp32."""
        planes = mask_logits_lowres.float()
        with outside_autocast(planes, self):
            x0, x1 = self._ends(planes, over=1)
            y0, y1 = self._ends(planes, over=2)
        boxes = torch.stack([torch.minimum(x0, x1), torch.minimum(y0, y1), torch.maximum(x0, x1),
                             torch.maximum(y0, y1)], dim=-1)  # fmt: skip
        return (Candidates(boxes[:, None], boxes.new_zeros(len(boxes), 1)),)

    def _ends(self, planes: Tensor, over: int) -> tuple[Tensor, Tensor]:
        """Where the planes [K, h, w] begin and end on the axis that is left without dimension ``over``, both [K]."""
        share = planes.sigmoid()
        highest = planes.amax(dim=over).clamp(-8.0, 8.0) / 4
        amount = (share.sum(dim=over) + 1.0).log()
        edges = self.edges(torch.stack([highest, amount], dim=1)).float()
        first, last = edges.softmax(dim=-1).unbind(dim=1)
        cells = highest.shape[-1]
        place = torch.arange(cells, device=planes.device, dtype=torch.float32) / cells
        return (first * place).sum(dim=-1), (last * (place + 1 / cells)).sum(dim=-1)


def check_plane_frame(box_frame: str, plane_frame: str | None, mask_kind: str) -> None:
    """Raise UserError unless boxes in the shares of a mask's plane, ``plane_frame``, are the box head's own frame.

    None: the plane has no frame that boxes have (SAM's is padded on the right and below).
    """
    if plane_frame is None:
        raise UserError(f"box.kind mask reads the plane of SAM 2, EdgeTAM or SAM 3, not that of {mask_kind}")
    if box_frame != plane_frame:
        raise UserError(
            f"box.kind mask: this mask head's plane has the frame {plane_frame}; give box.frame {plane_frame}"
        )
