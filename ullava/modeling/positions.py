"""Position tables for towers that are built afresh.

Transformers starts CLIP's table at random near zero, SAM's and that of SAM 2's Hiera at zero. Next to the patch
embedding's size that hides where a patch lies, and a model trained from scratch spends thousands of steps before it can
point at anything: on the synthetic world's salient objects the box L1 after 250 steps is 0.46 so, and 0.15 with the
table below (same seed, same data; models/tiny/README.md). Pretrained towers bring their own tables and are left alone.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch.nn import functional

SAM_SCALE = 0.3
"""SAM adds its table straight to the patch embedding, as do SigLIP and DINOv2; CLIP normalizes the sum, hence theirs
starts smaller."""


def sincos_grid(side: int, width: int) -> torch.Tensor:
    """2-D sine-cosine table [side * side, width] in reading order, x first; wavelengths from the grid's to two cells.

    Raises ValueError when ``width`` is no multiple of 4.
    """
    if width % 4:
        raise ValueError(f"a 2-D sine-cosine table needs a width divisible by 4, not {width}")
    quarter = width // 4
    frequencies = torch.pi / side * 2.0 ** (torch.arange(quarter) / quarter * torch.log2(torch.tensor(float(side))))
    phases = (torch.arange(side) + 0.5)[:, None] * frequencies
    along = torch.cat([phases.sin(), phases.cos()], dim=1)
    x = along.repeat(side, 1)
    y = along.repeat_interleave(side, dim=0)
    return torch.cat([x, y], dim=1)


def resize_positions(table: torch.Tensor, side: int, ahead: int = 0, *, antialias: bool = False) -> torch.Tensor:
    """A position table [N, width] or [1, N, width] for a square grid of ``side`` cells, as transformers resizes it.

    Bicubic, in float32; the first ``ahead`` rows, which are no places, stay. A table of no square grid comes back as
    it is.
    """
    rows = table.reshape(-1, table.shape[-1])
    first, cells = rows[:ahead], rows[ahead:]
    old = isqrt(len(cells))
    if old * old != len(cells) or old == 0:
        return table
    plane = cells.float().T.reshape(1, -1, old, old)
    plane = functional.interpolate(plane, (side, side), mode="bicubic", align_corners=False, antialias=antialias)
    resized = torch.cat([first, plane.flatten(2)[0].T.to(table.dtype)])
    return resized if table.dim() == 2 else resized[None]


@torch.no_grad()
def start_sam_positions(sam: Any) -> None:
    """Write the table of a SAM's encoder, if it has one whose width allows it."""
    encoder = sam.vision_encoder
    if encoder.pos_embed is not None and encoder.pos_embed.shape[-1] % 4 == 0:
        _, side, _, width = encoder.pos_embed.shape
        encoder.pos_embed.copy_(SAM_SCALE * sincos_grid(side, width).view(1, side, side, width))


@torch.no_grad()
def start_hiera_positions(backbone: Any) -> None:
    """Write the table of a Hiera, SAM 2's encoder, where its width allows it; EdgeTAM's has none.

    What is added to it within each window stays zero.
    """
    table = getattr(backbone, "pos_embed", None)
    if table is not None and table.shape[1] % 4 == 0 and table.shape[2] == table.shape[3]:
        _, width, side, _ = table.shape
        table.copy_(SAM_SCALE * sincos_grid(side, width).T.view(1, width, side, side))
