"""Puts visual tokens at their placeholders. Training and generation come through here alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ullava.errors import UserError
from ullava.modeling.heads.read_heads import dialogue_starts
from ullava.text.tokens import IGNORE_LABEL


@dataclass(frozen=True, slots=True)
class ExpandedText:
    """Text after expansion, [B, L']: every visual token has an id of its own, so positions are found by id.

    Without a mask every position counts (a step of generation may come without one). ``dialogues``: see ModelInputs.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    labels: torch.Tensor | None
    dialogues: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class VisualItems:
    """What the placeholders of one kind stand for: tokens [sum(counts), D] of distinct items, in order.

    ``index`` says which of the items each place of the text shows, in reading order. ``bounds``: for each place the
    least and the most tokens that it may get, as the processor announced them; None = all of them are written in full.
    ``literal_ids`` [sum(counts)]: see VisionOutput.
    """

    patch_id: int
    tokens: torch.Tensor
    counts: Sequence[int]
    index: Sequence[int]
    bounds: Sequence[Sequence[int]] | None = None
    literal_ids: torch.Tensor | None = None

    def of_places(self, values: torch.Tensor) -> torch.Tensor:
        """Rows of ``values`` [sum(counts), ...] for the places of the text, in reading order."""
        pieces = values.split(list(self.counts))
        return torch.cat([pieces[item] for item in self.index]) if self.index else values[:0]


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
        text = expand_markers(
            text, counts, patch_id=items.patch_id, pad_id=pad_id, left_pad=left_pad, bounds=items.bounds
        )
    tokens = []
    for items in kinds:
        chosen = items.of_places(items.tokens)
        if items.literal_ids is not None:
            literal = items.of_places(items.literal_ids)
            text = _write_literals(text, literal, items.patch_id)
            chosen = chosen[literal < 0]
        tokens.append(chosen)
    embeddings = embed(text.input_ids)
    for items, chosen in zip(kinds, tokens, strict=True):
        embeddings = scatter_visual_tokens(embeddings, text.input_ids, chosen, items.patch_id)
    return text, embeddings


def _write_literals(text: ExpandedText, literal_ids: torch.Tensor, patch_id: int) -> ExpandedText:
    """Write words among the visual tokens: ``literal_ids`` [N] are those of all placeholders, -1 = stays one."""
    places = text.input_ids == patch_id
    if int(places.sum()) != len(literal_ids):
        return text  # scatter_visual_tokens says what is wrong
    ids = torch.where(literal_ids < 0, torch.full_like(literal_ids, patch_id), literal_ids)
    return replace(text, input_ids=text.input_ids.masked_scatter(places, ids.to(text.input_ids)))


def expand_markers(
    text: ExpandedText,
    counts: Sequence[int],
    *,
    patch_id: int,
    pad_id: int,
    left_pad: bool,
    bounds: Sequence[Sequence[int]] | None = None,
) -> ExpandedText:
    """Replace single markers by as many placeholders as the strategy gave tokens (deferred mode).

    ``counts``: tokens for each place in reading order; ``bounds``: (least, most) announced for each. A place whose
    bounds agree has its placeholders already (static mode), another one a single marker. Without bounds all places are
    of one mode, static where the text has ``sum(counts)`` placeholders. Text in which nothing is open comes back
    unchanged. Labels are ignored on visual positions. Raises UserError when text, bounds and counts disagree.
    """
    found = int((text.input_ids == patch_id).sum())
    if bounds is None:
        written = list(counts) if found == sum(counts) else [1] * len(counts)
    else:
        written = [low if low == high else 1 for low, high in bounds]
        for (low, high), count in zip(bounds, counts, strict=True):
            if not low <= count <= high:
                raise UserError(f"the vision strategy gave {count} tokens for an item that may have {low} to {high}")
    if found != sum(written):
        raise UserError(f"{found} visual placeholders for {len(counts)} items with {sum(counts)} visual tokens")
    if written == list(counts):
        return text
    return _repeat(text, _repeats(counts, written), patch_id, pad_id, left_pad)


def _repeats(counts: Sequence[int], written: Sequence[int]) -> list[int]:
    """How often each placeholder of the text is to stand there, in reading order."""
    repeats: list[int] = []
    for count, given in zip(counts, written, strict=True):
        repeats += [count] if given == 1 else [1] * given
    return repeats


def _repeat(text: ExpandedText, counts: Sequence[int], patch_id: int, pad_id: int, left_pad: bool) -> ExpandedText:
    """Write the k-th placeholder of the batch ``counts[k]`` times and pad the rows anew."""
    rows_ids, rows_labels, rows_dialogues, item = [], [], [], 0
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
        if text.dialogues is not None:
            rows_dialogues.append(text.dialogues[row][keep].repeat_interleave(repeats))
    ids, mask = _pad_rows(rows_ids, pad_id, left_pad)
    padded = _pad_rows(rows_labels, IGNORE_LABEL, left_pad)[0] if text.labels is not None else None
    dialogues = _pad_rows(rows_dialogues, 0, left_pad)[0] if text.dialogues is not None else None
    return ExpandedText(ids, mask, padded, dialogues)


def restarting_positions(dialogues: torch.Tensor) -> torch.Tensor:
    """Positions [B, L] that begin anew with every dialogue [B, L], and with the padding."""
    places = torch.arange(dialogues.shape[1], device=dialogues.device)
    return places - dialogue_starts(dialogues)


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
