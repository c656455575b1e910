"""What the network returns. No loss in here: the criterion judges, the processor maps back to pixels."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast, ModelOutput

from ullava.errors import UserError

CACHE = "cache" if "cache" in {field.name for field in fields(BaseModelOutputWithPast)} else "past_key_values"
"""transformers' name for the keys and values of what was read, as an argument and in outputs; another since 5.24."""
ABSENT_LOGIT = -1024.0
"""Of every cell of a thing that is not there; SAM 2's."""


def certainty_of(scores: torch.Tensor, presence_logits: torch.Tensor | None) -> torch.Tensor:
    """How good each mask is, times how likely the thing is there where the head tells: fp32 [K]."""
    return scores.float() if presence_logits is None else scores.float() * presence_logits.float().sigmoid()


@dataclass(frozen=True, slots=True, eq=False)
class MaskReading:
    """What K masks were made of: ``states`` [K, D], ``features`` of ``MaskHead.embed``, ``image`` [K] of those."""

    states: torch.Tensor
    features: Any
    image: torch.Tensor


@dataclass
class SegOutput(ModelOutput):
    """Masks of a batch in reading order of their ``[SEG]``.

    ``mask_logits_lowres`` [K, h, w] on SAM's low plane; ``iou_scores`` [K], SAM's own quality prediction; ``row`` [K]
    of the text batch; ``image`` [K], which distinct image of the batch; ``token_probability`` [K] of the ``[SEG]``.
    ``presence_logits`` [K]: of the thing being there, None of heads that do not tell; ``judged`` takes them in.
    Where masks in videos are taught, those follow (``image`` -1); ``target`` [K] then is the place among the batch's
    masks that each is judged by, None = the same order. ``read``: what the masks were made of, where it was asked for
    (``ModelInputs.masks_read``).
    """

    mask_logits_lowres: torch.Tensor | None = None
    iou_scores: torch.Tensor | None = None
    presence_logits: torch.Tensor | None = None
    row: torch.Tensor | None = None
    image: torch.Tensor | None = None
    token_probability: torch.Tensor | None = None
    target: torch.Tensor | None = None
    read: MaskReading | None = None

    def judged(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [K, h, w] and scores [K] as they are answered, float32.

        A score is presence times quality, and a thing that is rather not there has no mask: SAM 2's rule.
        """
        if self.mask_logits_lowres is None or self.iou_scores is None:
            raise UserError("no masks were read")
        logits, scores = self.mask_logits_lowres.float(), certainty_of(self.iou_scores, self.presence_logits)
        if self.presence_logits is None:
            return logits, scores
        return logits.masked_fill(self.presence_logits[:, None, None] < 0, ABSENT_LOGIT), scores


@dataclass
class ClipPrompts(ModelOutput):
    """The ``[SEG]`` of a batch that speak of videos, in reading order: what prompts their masks in the frames.

    ``states`` [K, D]; ``row`` [K] of the text batch; ``video`` [K], which distinct video of the batch;
    ``token_probability`` [K] of the ``[SEG]``.
    """

    states: torch.Tensor | None = None
    row: torch.Tensor | None = None
    video: torch.Tensor | None = None
    token_probability: torch.Tensor | None = None


@dataclass
class LocOutput(ModelOutput):
    """Boxes of a batch in reading order of their ``[LOC]``: xyxy [K, 4] in the head's frame, and as in SegOutput.

    ``boxes_xyxy_head`` is None where the box head reads no states. ``scores`` [K] in [0, 1]. ``candidates``: what a
    head that offers several boxes for each thing chose from, one set for each of its stages, the deciding one last.
    """

    boxes_xyxy_head: torch.Tensor | None = None
    row: torch.Tensor | None = None
    image: torch.Tensor | None = None
    token_probability: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    candidates: tuple[Any, ...] | None = None


@dataclass
class UllavaOutput(CausalLMOutputWithPast):  # type: ignore[misc]
    """Output of ``forward``. Which entries there are depends on what is asked for, never on the mode.

    The cache has the name that transformers gives it (``CACHE``); there are no ``attentions``.
    ``logits``: [B, L, V], the last ``logits_to_keep`` of them; left out with ``supervised_only``. With labels:
    ``supervised_logits`` [n, V], the rows that predict a supervised token, next to ``targets`` [n], and ``loss``, their
    mean cross-entropy (words alone; the criterion of training adds the heads' terms).
    ``hidden_states``: one entry, the last layer's [B, L, D], on request. ``input_ids`` are returned expanded.
    ``idle``: a zero; in training it depends on the trainable weights that this batch did not use (ranks stay in step).
    ``aux``: the vision strategy's own loss terms by name. ``patch_nll``: how far each visual token that has a name is
    from it, [n] (ullava.modeling.vision.patches). ``base_kl``: filled in training (ullava.training.optim.base_words).
    ``diagnostics``: what the strategy tells about its choices, by name; ``chosen``: those choices that are numbers,
    for the items of each row. ``clips``: ``[SEG]`` that speak of videos.
    """

    supervised_logits: torch.Tensor | None = None
    targets: torch.Tensor | None = None
    input_ids: torch.Tensor | None = None
    seg: SegOutput | None = None
    loc: LocOutput | None = None
    clips: ClipPrompts | None = None
    idle: torch.Tensor | None = None
    aux: dict[str, torch.Tensor] | None = None
    patch_nll: torch.Tensor | None = None
    base_kl: torch.Tensor | None = None
    diagnostics: dict[str, Any] | None = None
    chosen: list[dict[str, tuple[int, ...]]] | None = None


@dataclass
class GroundedGeneration(ModelOutput):
    """Output of ``generate_grounded``: new ids [B, T] (padded after the end) and what their states ground.

    ``chosen``: as in UllavaOutput. ``clips``: those of ``[SEG]`` that speak of videos; None = there is none.
    """

    new_ids: torch.Tensor | None = None
    seg: SegOutput | None = None
    loc: LocOutput | None = None
    clips: ClipPrompts | None = None
    chosen: list[dict[str, tuple[int, ...]]] | None = None
