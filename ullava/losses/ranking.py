"""Teaching a router by what each of its choices costs: RGLF of AVG-LLaVA (arXiv 2410.02745; section on training)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

MARGIN = 1.0
CE_WEIGHT = 0.1
RANK_WEIGHT = 1.0


class RankingTerms(NamedTuple):
    """Scalars: ``ce`` towards the cheapest choice, ``rank`` of all of them, ``total`` = 0.1 ce + rank."""

    ce: torch.Tensor
    rank: torch.Tensor
    total: torch.Tensor


def answer_nll(token_nll: torch.Tensor, row: torch.Tensor, rows: int) -> torch.Tensor:
    """Mean loss of the answer of every row, [rows], from the losses [n] of supervised tokens and their rows [n].

    A row without a supervised token has none: nan.
    """
    sums = token_nll.new_zeros(rows).index_add(0, row, token_nll)
    counts = torch.bincount(row, minlength=rows)
    return torch.where(counts > 0, sums / counts, torch.full_like(sums, float("nan")))


def ranking_loss(
    logits: torch.Tensor, costs: torch.Tensor, *, margin: float = MARGIN, widen: bool = True
) -> RankingTerms:
    """Loss of router scores [B, L] against the answer loss [B, L] that each of the L levels gave.

    A cheaper level should score higher than a dearer one by a margin that grows with the difference of their costs.
    With s the log-probabilities and levels in order of cost, ``rank`` is the sum over j = 1 .. L-1 of the mean over
    samples and pairs j places apart of max(0, s_dear - s_cheap + margin j (cost_dear - cost_cheap)). ``widen`` False
    leaves the factor j out, as the paper writes it. Rows whose costs are not all finite are left out; without any
    other, every term is zero.
    """
    usable = costs.isfinite().all(dim=1)
    scores, paid = logits.float()[usable], costs.detach().float()[usable]
    if len(scores) == 0:
        nothing = logits.float().sum() * 0.0
        return RankingTerms(nothing, nothing, nothing)
    shares = scores.log_softmax(dim=1)
    order = paid.argsort(dim=1, stable=True)
    ce = functional.nll_loss(shares, order[:, 0])
    ranked, dear = shares.gather(1, order), paid.gather(1, order)
    rank = ranked.new_zeros(())
    for gap in range(1, ranked.shape[1]):
        wanted = margin * (gap if widen else 1) * (dear[:, gap:] - dear[:, :-gap])
        rank = rank + (ranked[:, gap:] - ranked[:, :-gap] + wanted).clamp(min=0.0).mean()
    return RankingTerms(ce, rank, CE_WEIGHT * ce + RANK_WEIGHT * rank)
