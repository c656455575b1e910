"""SliME's resampler: learned queries on a grid read a grid of patch states through one cross-attention.

arXiv 2406.08487, released code. The table of positions belongs to the grid of the queries and has the precision of
float16, in which it was stored; keys get that table resized to their own grid and rounded to float16 once more.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from ullava.errors import UserError

NORM_EPS = 1e-6
QUERY_STD = 0.02


@lru_cache(maxsize=16)
def query_positions(side: int, width: int) -> NDArray[np.float16]:
    """Sines and cosines of the places of a ``side`` x ``side`` grid, float16 [side^2, width], row by row.

    The first half of the channels tells the column, the second the row; each half is all sines, then all cosines, of
    the place times 10000^(-2 k / (width / 2)). Raises UserError for a width that four does not divide.
    """
    if width % 4:
        raise UserError(f"a position on a grid takes a width that 4 divides, not {width}")
    rates = 1.0 / 10000.0 ** (np.arange(width // 4, dtype=np.float32) / (width / 4))
    angles = np.arange(side, dtype=np.float32)[:, None] * rates.astype(np.float32)
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    columns = np.broadcast_to(waves[None, :], (side, side, width // 2))
    rows = np.broadcast_to(waves[:, None], (side, side, width // 2))
    return np.concatenate([columns, rows], axis=2).reshape(side * side, width).astype(np.float16)


@lru_cache(maxsize=16)
def key_positions(query_side: int, input_side: int, width: int) -> NDArray[np.float16]:
    """The table of the queries, resized bicubically to the grid of the inputs: float16 [input_side^2, width]."""
    table = query_positions(query_side, width)
    if query_side == input_side:
        return table
    planes = torch.from_numpy(table.astype(np.float32)).reshape(1, query_side, query_side, width).permute(0, 3, 1, 2)
    resized = functional.interpolate(planes, (input_side, input_side), mode="bicubic", align_corners=False)
    positions: NDArray[np.float16] = resized.permute(0, 2, 3, 1).reshape(-1, width).numpy().astype(np.float16)
    return positions


class Resampler(nn.Module):
    """``query_side``^2 learned queries attend to the states of a square grid; layer norms before and after."""

    def __init__(self, query_side: int, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"a resampler of width {width} cannot have {heads} heads")
        query_positions(query_side, width)
        self.query_side = query_side
        self.query = nn.Parameter(torch.empty(query_side**2, width))
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_q = nn.LayerNorm(width, eps=NORM_EPS)
        self.ln_kv = nn.LayerNorm(width, eps=NORM_EPS)
        self.ln_post = nn.LayerNorm(width, eps=NORM_EPS)
        nn.init.trunc_normal_(self.query, std=QUERY_STD)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States [I, P, width] of a square grid -> [I, query_side^2, width].

        Raises UserError when P is no square.
        """
        count, width = states.shape[1:]
        side = math.isqrt(count)
        if side * side != count:
            raise UserError(f"a resampler reads a square grid, and {count} states are none")
        values = self.ln_kv(states)
        keys = values + self._table(key_positions(self.query_side, side, width), values)
        query = self.ln_q(self.query)
        query = (query + self._table(query_positions(self.query_side, width), query)).expand(len(states), -1, -1)
        output: torch.Tensor = self.ln_post(self.attn(query, keys, values, need_weights=False)[0])
        return output

    @staticmethod
    def _table(positions: NDArray[np.float16], like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(positions).to(device=like.device, dtype=like.dtype)
