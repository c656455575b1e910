"""Finds ``[SEG]`` and ``[LOC]`` and the hidden states that belong to them; one function for training and generation."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class TokenStates:
    """Grounded tokens of one kind in reading order: states [K, D], row [K], item [K] (which image; -1 = none)."""

    states: torch.Tensor
    row: torch.Tensor
    item: torch.Tensor


def align_states(hidden: torch.Tensor, head_state: str) -> torch.Tensor:
    """Shift [B, L, D] so that position t holds the state that belongs to the token at t.

    ``predicting``: the state one before it. Position 0 has none and repeats its own; no grounded token stands there.
    """
    if head_state == "token":
        return hidden
    return torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1)


def item_of_position(input_ids: torch.Tensor, image_start_id: int) -> torch.Tensor:
    """For every position [B, L] the number of the last image begun before it, counted over the batch; -1 = none."""
    starts = (input_ids == image_start_id).long()
    in_row = starts.cumsum(dim=1)
    before = starts.sum(dim=1).cumsum(dim=0) - starts.sum(dim=1)
    return torch.where(in_row > 0, before[:, None] + in_row - 1, torch.full_like(in_row, -1))


def read_heads(aligned_states: torch.Tensor, tokens: torch.Tensor, items: torch.Tensor, token_id: int) -> TokenStates:
    """Pick the states of all ``token_id`` in ``tokens`` [B, L]; ``items`` [B, L] says which image each speaks of."""
    row, position = (tokens == token_id).nonzero(as_tuple=True)
    return TokenStates(aligned_states[row, position], row, items[row, position])
