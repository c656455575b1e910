"""Finds ``[SEG]`` and ``[LOC]`` and the hidden states that belong to them; one function for training and generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ullava.modeling.heads.grounding_layer import PassStates


@dataclass(frozen=True, slots=True)
class TokenStates:
    """Grounded tokens of one kind in reading order: states [K, D], row [K], item [K] (which image; -1 = none).

    ``last`` [K, D]: what the language head reads at the same places; ``states`` itself without a grounding layer.
    """

    states: torch.Tensor
    row: torch.Tensor
    item: torch.Tensor
    last: torch.Tensor

    def chosen(self, keep: torch.Tensor) -> TokenStates:
        """Return those that ``keep`` bool [K] names."""
        places = keep.nonzero()[:, 0]  # once, for an accelerator is waited for here
        return TokenStates(self.states[places], self.row[places], self.item[places], self.last[places])

    def followed_by(self, other: TokenStates) -> TokenStates:
        """Return these and then those of ``other``."""
        return TokenStates(
            torch.cat([self.states, other.states]),
            torch.cat([self.row, other.row]),
            torch.cat([self.item, other.item]),
            torch.cat([self.last, other.last]),
        )


def align_states(states: PassStates, head_state: str) -> PassStates:
    """Shift both [B, L, D] so that position t holds the state that belongs to the token at t; see ``_aligned``."""
    grounding = _aligned(states.grounding, head_state)
    return PassStates(grounding, grounding if states.last is states.grounding else _aligned(states.last, head_state))


def _aligned(hidden: torch.Tensor, head_state: str) -> torch.Tensor:
    """Shift [B, L, D] so that position t holds the state that belongs to the token at t.

    ``predicting``: the state one before it. Position 0 has none and repeats its own; no grounded token stands there.
    """
    if head_state == "token":
        return hidden
    return torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1)


def item_of_position(
    input_ids: torch.Tensor, image_start_id: int, dialogues: torch.Tensor | None = None
) -> torch.Tensor:
    """For every position [B, L] the number of the last image begun before it, counted over the batch; -1 = none.

    ``dialogues``: see ModelInputs; an image of another dialogue of the row is none.
    """
    starts = (input_ids == image_start_id).long()
    in_row = starts.cumsum(dim=1)
    before = starts.sum(dim=1).cumsum(dim=0) - starts.sum(dim=1)
    elsewhere = torch.zeros_like(in_row)
    if dialogues is not None:
        elsewhere = (in_row - starts).gather(1, dialogue_starts(dialogues))
    return torch.where(in_row > elsewhere, before[:, None] + in_row - 1, torch.full_like(in_row, -1))


def dialogue_starts(dialogues: torch.Tensor) -> torch.Tensor:
    """For every position [B, L] the first one of its dialogue; padding counts as one, too."""
    places = torch.arange(dialogues.shape[1], device=dialogues.device).expand_as(dialogues)
    changes = torch.diff(dialogues, dim=1, prepend=dialogues[:, :1] - 1) != 0
    return torch.where(changes, places, torch.zeros_like(places)).cummax(dim=1).values


def states_of_sequences(result: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The prompts' states [B, L, D] and those that the T new tokens were said from [B, T, D], of each kind there is.

    ``result``: of transformers' ``generate`` with hidden states. A beam search ran N beams for each prompt; the states
    of a sequence are those of the beams that it passed through (``beam_indices``). After its end they mean nothing.
    """
    steps, beams = result.hidden_states, getattr(result, "beam_indices", None)
    if beams is None:
        return list(steps[0]), [
            torch.stack([kind[:, -1] for kind in kinds], dim=1) for kinds in zip(*steps, strict=True)
        ]
    taken = beams.clamp(min=0).unbind(dim=1)
    prompts = [kind[taken[0]] for kind in steps[0]]
    kinds_of_steps = zip(*steps[: len(taken)], strict=True)
    new = [[kind[row, -1] for kind, row in zip(kinds, taken, strict=True)] for kinds in kinds_of_steps]
    return prompts, [torch.stack(states, dim=1) for states in new]


def read_heads(aligned: PassStates, tokens: torch.Tensor, items: torch.Tensor, token_id: int) -> TokenStates:
    """Pick the states of all ``token_id`` in ``tokens`` [B, L]; ``items`` [B, L] says which image each speaks of."""
    row, position = (tokens == token_id).nonzero(as_tuple=True)
    states = aligned.grounding[row, position]
    last = states if aligned.last is aligned.grounding else aligned.last[row, position]
    return TokenStates(states, row, items[row, position], last)
