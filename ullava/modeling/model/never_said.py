"""Tokens that no answer may hold."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers import LogitsProcessor


class NeverSaid(LogitsProcessor):
    """What transformers' ``suppress_tokens`` does, without a search through the vocabulary at each step."""

    def __init__(self, token_ids: Iterable[int]) -> None:
        self.token_ids = torch.tensor(sorted(token_ids), dtype=torch.long)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Scores [B, V] with those of the tokens at minus infinity."""
        self.token_ids = self.token_ids.to(scores.device)
        return scores.index_fill(1, self.token_ids, -float("inf"))
