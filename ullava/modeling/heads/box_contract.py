"""The contract of a box head. The rest of the flow sees nothing else of it, and never asks which one it has.

A head has a part with weights, ``BoxHead``, and a part without, ``BoxRules``
(ullava.modeling.heads.box_post_processing), which lives in the processor and knows frames, images and words. Boxes come
in one of two ways, and a head chooses one: it reads the states of ``[LOC]`` in the same pass as everything else, or it
finds phrases once the words are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ullava.examples import HeadImages
from ullava.geometry.box_tensors import paired_iou_giou
from ullava.modeling.heads.mask_contract import DecodedMasks
from ullava.modeling.heads.outputs import LocOutput, certainty_of
from ullava.modeling.heads.read_heads import TokenStates


@dataclass(frozen=True, slots=True)
class Candidates:
    """Q boxes offered for each of K things: xyxy [K, Q, 4] in the head's frame, fp32, and logits [K, Q] (-inf = none).

    ``softmax(logits)`` over Q is how much the head believes that each is the one.
    """

    boxes_xyxy_head: torch.Tensor
    logits: torch.Tensor


@dataclass(frozen=True, slots=True)
class PhrasePrompts:
    """P phrases to be found, as the detector's text encoder reads them.

    ``input_ids``, ``attention_mask`` [P, L]; ``is_word`` bool [P, L] tells words from separators and padding;
    ``image`` [P], which distinct image of the batch; ``row`` and ``thing`` say whose phrase it is: the row of the
    batch and the place among the things of its answer.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    is_word: torch.Tensor
    image: torch.Tensor
    row: tuple[int, ...]
    thing: tuple[int, ...]

    def to(self, device: torch.device) -> PhrasePrompts:
        """Return the same prompts with their tensors on ``device``."""
        ids, mask, word, image = (
            tensor.to(device) for tensor in (self.input_ids, self.attention_mask, self.is_word, self.image)
        )
        return PhrasePrompts(ids, mask, word, image, self.row, self.thing)


@dataclass(frozen=True, slots=True)
class FoundBoxes:
    """Q boxes found for each of P phrases: xyxy [P, Q, 4] in the head's frame, fp32, corners in order.

    ``scores`` [P, Q] in [0, 1] is the match with the whole prompt, ``word_scores`` [P, Q] with its words alone.
    """

    boxes_xyxy_head: torch.Tensor
    scores: torch.Tensor
    word_scores: torch.Tensor


class BoxHead(nn.Module):
    """The part with weights. ``forward`` reads states, ``find`` finds phrases; a head has the one or the other.

    ``reads_states``: boxes come from ``[LOC]`` states. ``reads_masks``: they do by way of the mask head, which decodes
    those states beside its own; ``forward`` reads the planes. ``needs_image``: only of an image in the head's own view.
    ``trains``: a training stage may train it; ``unread``: how the names of those weights begin (below the head) that no
    pass reads all the same.
    """

    reads_states = True
    reads_masks = False
    needs_image = False
    trains = True
    unread: tuple[str, ...] = ()

    def find(self, prompts: PhrasePrompts, images: HeadImages) -> FoundBoxes:
        """Find P phrases in their images. A head that reads states finds nothing: no candidates at all."""
        none = torch.zeros(len(prompts.row), 0, device=prompts.input_ids.device)
        return FoundBoxes(none[..., None].expand(-1, -1, 4), none, none)


def read_boxes(
    head: Any, found: TokenStates, image: torch.Tensor, probability: torch.Tensor, shown: HeadImages | None
) -> LocOutput:
    """Read the boxes of ``[LOC]`` states [K, D] that speak of distinct images ``image`` [K].

    Of several candidates the most believed is taken. With shares ``p_q = softmax_q(logits)`` its score is
    ``P([LOC]) * sum_q p_q IoU(box_q, box_taken)``: how likely the token was, times the overlap that the head itself
    expects with the right box. A head of one box for each thing scores ``P([LOC])``.
    """
    images = shown if head.needs_image else None
    row = found.row
    if not head.reads_states:
        return LocOutput(row=row, image=image, token_probability=probability, scores=probability)
    states, rows = found.states, None
    if head.needs_image:
        rows = images.rows(image) if images is not None else torch.full_like(image, -1)
        if len(rows) and bool((rows < 0).any()):
            keep = rows >= 0
            states, row, image, probability, rows = (part[keep] for part in (states, row, image, probability, rows))
    sets = head(states, rows, images)
    boxes, certainty = choose(sets[-1])
    return LocOutput(
        boxes_xyxy_head=boxes,
        row=row,
        image=image,
        token_probability=probability,
        scores=probability * certainty,
        candidates=None if sets[-1].logits.shape[1] == 1 and len(sets) == 1 else sets,
    )


def read_mask_boxes(
    head: Any, found: TokenStates, image: torch.Tensor, probability: torch.Tensor, decoded: DecodedMasks
) -> LocOutput:
    """Read the boxes of K masks that the mask head ``decoded`` of ``[LOC]`` states; see ``read_boxes``.

    A score is ``P([LOC])`` times the score that the mask would have.
    """
    offered = head(decoded.mask_logits_lowres)[-1]
    with torch.no_grad():
        certainty = certainty_of(decoded.scores, decoded.presence_logits).clamp(0.0, 1.0)
    return LocOutput(
        boxes_xyxy_head=offered.boxes_xyxy_head[:, 0],
        row=found.row,
        image=image,
        token_probability=probability,
        scores=probability * certainty,
    )


def choose(offered: Candidates) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the most believed boxes [K, 4] and the overlap [K] that the head expects of each (see ``read_boxes``)."""
    boxes, logits = offered.boxes_xyxy_head, offered.logits.float()
    if boxes.shape[1] == 1:
        return boxes[:, 0], logits.new_ones(len(boxes))
    place = logits.argmax(dim=1)
    taken = boxes[torch.arange(len(boxes), device=boxes.device), place]
    with torch.no_grad():
        certainty = (logits.softmax(dim=1) * paired_iou_giou(boxes, taken[:, None])[0]).sum(dim=1).clamp(0.0, 1.0)
    return taken, certainty
