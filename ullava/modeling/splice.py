"""Puts visual tokens at their placeholders. Training and generation come through here alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ullava.errors import UserError
from ullava.text.tokens import IGNORE_LABEL


@dataclass(frozen=True, slots=True)
class ExpandedText:
    """Text after expansion, [B, L']: every visual token has an id of its own, so positions are found by id.

    Without a mask every position counts (a step of generation may come without one).
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    labels: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class VisualItems:
    """What the placeholders of one kind stand for: tokens [sum(counts), D] of distinct items, in order.

    ``index`` says which of the items each place of the text shows, in reading order.
    """

    patch_id: int
    tokens: torch.Tensor
    counts: Sequence[int]
    index: Sequence[int]


def splice_visual(
    text: ExpandedText,
    embed: Callable[[torch.Tensor], torch.Tensor],
    kinds: Sequence[VisualItems],
    *,
    pad_id: int,
    left_pad: bool,
) -> tuple[ExpandedText, torch.Tensor]:
    """Expand the placeholders of every kind, embed the text and put the visual tokens in: text, embeddings [B, L', D].

    Raises UserError as ``expand_markers`` and ``scatter_visual_tokens``.
    """
    for items in kinds:
        counts = [items.counts[item] for item in items.index]
        text = expand_markers(text, counts, patch_id=items.patch_id, pad_id=pad_id, left_pad=left_pad)
    embeddings = embed(text.input_ids)
    for items in kinds:
        pieces = items.tokens.split(list(items.counts))
        tokens = torch.cat([pieces[item] for item in items.index]) if items.index else items.tokens[:0]
        embeddings = scatter_visual_tokens(embeddings, text.input_ids, tokens, items.patch_id)
    return text, embeddings


def expand_markers(
    text: ExpandedText, counts: Sequence[int], *, patch_id: int, pad_id: int, left_pad: bool
) -> ExpandedText:
    """Replace single markers by as many placeholders as the strategy gave tokens (deferred mode).

    ``counts``: tokens per item in reading order. Text whose placeholders already number ``sum(counts)`` (static mode)
    comes back unchanged. Labels are ignored on visual positions. Raises UserError when markers and items disagree.
    """
    found = int((text.input_ids == patch_id).sum())
    if found == sum(counts):
        return text
    if found != len(counts):
        raise UserError(f"{found} visual placeholders for {len(counts)} items with {sum(counts)} visual tokens")
    rows_ids, rows_labels, item = [], [], 0
    for row in range(len(text.input_ids)):
        every = torch.ones_like(text.input_ids[row], dtype=torch.bool)
        keep = every if text.attention_mask is None else text.attention_mask[row].bool()
        ids = text.input_ids[row][keep]
        repeats = torch.ones_like(ids)
        for position in (ids == patch_id).nonzero().flatten().tolist():
            repeats[position] = counts[item]
            item += 1
        rows_ids.append(ids.repeat_interleave(repeats))
        if text.labels is not None:
            labels = text.labels[row][keep].masked_fill(ids == patch_id, IGNORE_LABEL)
            rows_labels.append(labels.repeat_interleave(repeats))
    ids, mask = _pad_rows(rows_ids, pad_id, left_pad)
    padded = _pad_rows(rows_labels, IGNORE_LABEL, left_pad)[0] if text.labels is not None else None
    return ExpandedText(ids, mask, padded)


def _pad_rows(rows: Sequence[torch.Tensor], fill: int, left_pad: bool) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(row) for row in rows)
    padded = rows[0].new_full((len(rows), length), fill)
    mask = torch.zeros_like(padded)
    for number, row in enumerate(rows):
        place = slice(length - len(row), length) if left_pad else slice(0, len(row))
        padded[number, place] = row
        mask[number, place] = 1
    return padded, mask


def scatter_visual_tokens(
    embeddings: torch.Tensor, input_ids: torch.Tensor, visual_tokens: torch.Tensor, patch_id: int
) -> torch.Tensor:
    """Put ``visual_tokens`` [N, D] (reading order) into ``embeddings`` [B, L, D] where ``input_ids`` is ``patch_id``.

    Raises UserError when the placeholders do not number N: text must never be overwritten, nor a token left out.
    """
    places = input_ids == patch_id
    if int(places.sum()) != len(visual_tokens):
        raise UserError(
            f"the text has {int(places.sum())} places for visual tokens, the vision strategy gave {len(visual_tokens)}"
        )
    return embeddings.masked_scatter(places[..., None], visual_tokens.to(embeddings.dtype))
