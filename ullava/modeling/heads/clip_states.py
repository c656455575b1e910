"""Masks of a batch's clips where they are taught: which state speaks of which clip, and what is judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from ullava.examples import ClipFrames
from ullava.modeling.heads.clip_masks import taught_masks
from ullava.modeling.heads.mask_contract import MaskHead
from ullava.modeling.heads.outputs import ClipPrompts, SegOutput


def with_clip_masks(
    head: MaskHead,
    seg: SegOutput,
    clips: ClipPrompts,
    frames: ClipFrames,
    embed: Callable[[Tensor], Any],
    backprop_frames: int | None,
) -> SegOutput:
    """``seg``, the masks in images, and behind them those in the annotated frames of clips (``taught_masks``).

    ``embed``: distinct videos of the batch [V] -> what the head's encoder makes of their T frames, video by video.
    Raises ValueError where the batch has another number of ``[SEG]`` of videos than the network read.
    """
    states, row, video = (cast(Tensor, value) for value in (clips.states, clips.row, clips.video))
    if len(row) != len(frames.annotated):
        raise ValueError(f"the network read {len(row)} [SEG] of videos, the batch has {len(frames.annotated)}")
    annotated = frames.annotated
    spoken_of, clip = video.unique(return_inverse=True)
    taught = taught_masks(head, embed(spoken_of), states, clip, annotated, frames.prompt.tolist(), backprop_frames)
    rounds = len(taught.scores) // int(annotated.sum())  # once for each way in which the head makes them
    thing = annotated.nonzero()[:, 0].repeat(rounds)
    target = torch.arange(int(annotated.sum()), device=thing.device).repeat(rounds)
    images = len(cast(Tensor, seg.row))
    probability = cast(Tensor, clips.token_probability)
    told = None if taught.presence_logits is None else _behind(seg.presence_logits, taught.presence_logits)
    return SegOutput(
        mask_logits_lowres=_behind(seg.mask_logits_lowres, taught.mask_logits_lowres),
        iou_scores=_behind(seg.iou_scores, taught.scores),
        presence_logits=told,
        row=_behind(seg.row, row[thing]),
        image=_behind(seg.image, torch.full_like(thing, -1)),
        token_probability=_behind(seg.token_probability, probability[thing]),
        target=torch.cat([torch.arange(images, device=thing.device), images + target]),
    )


def _behind(images: Tensor | None, clips: Tensor) -> Tensor:
    """What is known of masks in images, and behind it that of clips; without a mask nothing is known, of any type."""
    return clips if images is None or len(images) == 0 else torch.cat([images, clips])
