"""The words that AVG-LLaVA's released code hands to the router."""

from __future__ import annotations

import torch
from torch.nn import functional

from ullava.modeling.vision.avg_router import ChosenWords


def released_words(base: torch.Tensor, words: torch.Tensor, mask: torch.Tensor, slots: int) -> ChosenWords:
    """As published: masked words [t] rank last but still fill free slots; empty slots take part as zeros."""
    nearness = (functional.normalize(words.float(), dim=-1) @ functional.normalize(base.float(), dim=-1).T).mean(dim=1)
    best = nearness.masked_fill(~mask.bool(), float("-inf")).argsort(descending=True, stable=True)[:slots]
    rows = words.new_zeros(slots, words.shape[-1])
    rows[: len(best)] = words[best]
    return ChosenWords(rows, torch.zeros(slots, dtype=torch.bool, device=words.device))
