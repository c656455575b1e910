"""SliME's choice of local tokens: those that the words of the prompt are close to, until their shares add up to top_p.

arXiv 2406.08487, local view. Pure functions without weights; no gradient runs through the choice.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

from ullava.errors import UserError, did_you_mean

Reduce = Literal["sum", "mean"]
"""How the cosines of a token with all words become one score. ``sum`` is the released rule: the longer the prompt, the
sharper the shares and the fewer tokens are kept; ``mean`` does not depend on the prompt's length."""
REDUCTIONS: tuple[Reduce, ...] = ("sum", "mean")

EVERYTHING = 1.0
"""From this top_p on nothing is dropped. The released rule drops tokens there, when the running sum is rounded up."""


@torch.no_grad()
def word_cosines(tokens: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Cosines in float32 [N, T] of visual tokens [N, D] with the embeddings of words [T, D]."""
    with torch.autocast(tokens.device.type, enabled=False):
        return functional.normalize(tokens.float(), dim=-1) @ functional.normalize(words.float(), dim=-1).T


def reduce_cosines(cosines: torch.Tensor, reduce: Reduce) -> torch.Tensor:
    """Cosines [N, T] -> scores [N]. Raises UserError for an unknown ``reduce``."""
    if reduce not in REDUCTIONS:
        raise UserError(f"unknown reduction '{reduce}'{did_you_mean(str(reduce), REDUCTIONS)}")
    total = cosines.sum(dim=1)
    return total if reduce == "sum" else total / max(cosines.shape[1], 1)


@torch.no_grad()
def select_top_p(scores: torch.Tensor, top_p: float, temperature: float = 1.0, reduce: Reduce = "sum") -> torch.Tensor:
    """Indices of the tokens that are kept, ascending, int64 [K]; at least one of any.

    Args:
        scores: [N], one of each token, or cosines [N, T], which ``reduce`` makes into one.
        top_p: from the best score on, tokens are kept while the sum of their shares softmax(scores / temperature) is at
            most top_p, and the next one too; 1 keeps all.
        temperature: temperature, above 0.
        reduce: ``sum`` or ``mean`` over T.

    Raises:
        UserError: a top_p outside 0 to 1, a temperature that is not positive, an unknown ``reduce``.
    """
    if not 0.0 <= top_p <= EVERYTHING:
        raise UserError(f"top_p is {top_p}: a share lies between 0 and 1")
    if temperature <= 0:
        raise UserError(f"temperature is {temperature}: a temperature is above 0")
    if scores.ndim == 2:
        scores = reduce_cosines(scores, reduce)
    if top_p >= EVERYTHING or len(scores) == 0:
        return torch.arange(len(scores), device=scores.device)
    shares = (scores.cpu().double() / temperature).softmax(dim=0)  # an accelerator may have no float64
    ordered, order = shares.sort(descending=True, stable=True)
    kept = min(int((ordered.cumsum(dim=0) <= top_p).sum()) + 1, len(scores))
    return order[:kept].sort().values.to(scores.device)


def merge_tiles(tokens: torch.Tensor, grid_cr: tuple[int, int]) -> torch.Tensor:
    """Tokens of the tiles [m, q^2, D] as one grid over the whole canvas, row by row: [m q^2, D].

    Tiles are numbered row by row over ``grid_cr`` columns and rows, cells row by row in their tile.
    """
    columns, rows = grid_cr
    side = round(tokens.shape[1] ** 0.5)
    cells = tokens.reshape(rows, columns, side, side, tokens.shape[-1])
    return cells.transpose(1, 2).reshape(-1, tokens.shape[-1])
