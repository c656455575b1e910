"""The words of an answer joined with what the heads gave: masks and boxes in the frame of the original image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ullava.modeling.heads.box_post_processing import AnsweredObject, DetectedPhrase
from ullava.modeling.heads.mask_contract import MaskRules
from ullava.structures import Answer, GroundedObject, MasksOverTime
from ullava.text.answers import split_objects

Masks = Sequence[tuple[torch.Tensor, float]]


@dataclass(frozen=True, slots=True)
class Told:
    """What an answer says and how it came to be; see Answer."""

    text: str
    finished: bool
    new_tokens: int
    chosen: Mapping[str, tuple[int, ...]]
    presence: tuple[float, ...]


def joined_answer(
    mask_rules: MaskRules,
    box_rules: Any,
    told: Told,
    *,
    original_hw: Sequence[tuple[int, int]],
    masks: Masks,
    boxes: Sequence[tuple[NDArray[np.float64], float]],
    phrases: Mapping[int, DetectedPhrase],
    over_time: Sequence[MasksOverTime],
) -> Answer:
    """Return the Answer; see ``UllavaProcessor.to_answer``."""
    objects, not_found = list[GroundedObject](), list[str]()
    for number, found in enumerate(split_objects(told.text)):
        ordinal = found.seg_ordinal
        if ordinal is not None and ordinal < len(over_time):
            carried = over_time[ordinal]
            if carried.masks.is_absent:
                not_found.append(found.phrase)
            else:
                shown = GroundedObject(found.phrase, found.span, None, None, carried.score, carried.score)
                objects.append(replace(shown, over_time=carried, plain_span=found.plain_span, group=found.group))
            continue
        mask, mask_score = _mask_of(mask_rules, ordinal, masks, original_hw)
        box = box_score = None
        if original_hw:
            thing = AnsweredObject(found, mask, mask_score, boxes, phrases.get(number))
            box, box_score = box_rules.box_of(thing, (original_hw[-1][1], original_hw[-1][0]))
        score = mask_score if mask_score is not None else box_score
        gone = mask is not None and not mask.any() and (box is None or mask_rules.tells_presence)
        not_found += [found.phrase] if gone else []
        if gone or score is None or (mask is None and box is None):
            continue
        objects.append(
            GroundedObject(
                phrase=found.phrase,
                span=found.span,
                mask=mask,
                box_xyxy_px=box,
                score=score,
                mask_score=mask_score,
                box_score=box_score,
                image=max(len(original_hw) - 1, 0),
                plain_span=found.plain_span,
                group=found.group,
            )
        )
    return Answer(
        told.text,
        tuple(objects),
        told.finished,
        told.new_tokens,
        dict(told.chosen),
        not_found=tuple(not_found),
        presence=told.presence,
    )


def _mask_of(
    rules: MaskRules, ordinal: int | None, masks: Masks, original_hw: Sequence[tuple[int, int]]
) -> tuple[NDArray[np.bool_] | None, float | None]:
    if ordinal is None or ordinal >= len(masks) or not original_hw:
        return None, None
    logits, score = masks[ordinal]
    (full,) = rules.to_original(logits[None], original_hw[-1])
    return (full > 0).cpu().numpy(), rules.score(full, score)
