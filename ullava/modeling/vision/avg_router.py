"""AVG-LLaVA's granularity router: from an image's tokens and the question to a score for every level.

One transformer layer over the tokens of all levels and the words of the question that the image is about, a small
network at each place, a learned weight for each place, the mean over crops, a norm (section on architecture; arXiv
2410.02745). Shapes: S places = tokens of all levels, coarsest first, then ``text_slots`` words; L levels; D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from ullava.modeling.vision.avg_layout import scale_tokens

AttentionAxis = Literal["tokens", "crops"]


@dataclass(frozen=True, slots=True)
class ChosenWords:
    """The words that the router sees: ``rows`` [slots, D], and which of the slots are ``empty`` (bool [slots])."""

    rows: torch.Tensor
    empty: torch.Tensor


def choose_words(base: torch.Tensor, words: torch.Tensor, slots: int) -> ChosenWords:
    """The ``slots`` words nearest to the image: highest mean cosine with its base tokens [P, D] first.

    ``words`` [t, D] are those of the question alone; where they are fewer, the rest of the slots stay empty (zero).
    """
    nearness = (functional.normalize(words.float(), dim=-1) @ functional.normalize(base.float(), dim=-1).T).mean(dim=1)
    best = nearness.argsort(descending=True, stable=True)[:slots]
    rows = words.new_zeros(slots, words.shape[-1])
    rows[: len(best)] = words[best]
    empty = torch.arange(slots, device=words.device) >= len(best)
    return ChosenWords(rows, empty)


class GranularityRouter(nn.Module):
    """Scores [L] of the levels for each image.

    ``axis``: ``tokens`` lets the places of one crop look at each other. ``crops`` is the released way: the layer was
    built for another order of dimensions, so each place looks only at its like in the other crops (in an image of one
    crop, at itself); for released weights. There an empty slot counts as a word; else nobody looks at it and it has no
    vote.
    """

    def __init__(
        self,
        width: int,
        levels: Sequence[int],
        *,
        text_slots: int = 32,
        heads: int = 8,
        dropout: float = 0.1,
        axis: AttentionAxis = "tokens",
    ) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.text_slots = text_slots
        self.axis = axis
        self.merger = nn.TransformerEncoderLayer(width, heads, width, dropout, batch_first=axis == "tokens")
        self.router = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, len(self.levels)))
        self.voter = nn.Parameter(torch.empty(sum(self.levels) + text_slots, 1))
        self.norm = nn.LayerNorm(len(self.levels))
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Starting values as published: Kaiming-normal in the small network, the votes from N(0, 1)."""
        for layer in self.router:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.voter)

    def states(self, crops: torch.Tensor, chosen: ChosenWords) -> torch.Tensor:
        """What the transformer layer makes of one image's crops [n, P, D] (base first): [n, S, D]."""
        seen = [scale_tokens(crops, level) for level in self.levels]
        words = chosen.rows.to(crops.dtype).expand(len(crops), -1, -1)
        places = torch.cat([*seen, words], dim=1)
        if self.axis == "crops":
            return self.merger(places)
        visual = chosen.empty.new_zeros(sum(self.levels))
        padding = torch.cat([visual, chosen.empty]).expand(len(crops), -1)
        return self.merger(places, src_key_padding_mask=padding)

    def forward(self, crops: torch.Tensor, chosen: ChosenWords) -> torch.Tensor:
        """Scores [L] of one image from its crops [n, P, D], the base crop first."""
        scores = self.router(self.states(crops, chosen))
        votes = self.voter[:, 0].to(scores.dtype)
        if self.axis == "tokens":
            counted = torch.cat([votes.new_ones(sum(self.levels)), (~chosen.empty).to(votes.dtype)])
            votes = votes * counted
        return self.norm(torch.einsum("nsl,s->nl", scores, votes).mean(dim=0))
