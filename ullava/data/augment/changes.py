"""A sample and its images, mirrored or cropped: masks, boxes and answers go with the pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from ullava.data.augment.words import turned
from ullava.data.readers.record import left_to_right
from ullava.geometry import mask_to_box_xyxy_px
from ullava.structures import BoxXYXY, DetectedBoxes, MaskArray, Region, RegionPrompt, Sample, Turn
from ullava.text.answers import grounded_answer, split_objects

Window = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, half-open: what a crop keeps."""


# ---------------------------------------------------------------- mirrored
def flipped(sample: Sample, width: int) -> Sample | None:
    """Return ``sample`` of the mirrored image, ``width`` pixels wide; None where its words cannot be turned."""
    turns = [_flipped_turn(turn, width) for turn in sample.turns]
    things = [_flipped_region(region, width) for region in sample.things]
    if None in turns or None in things:
        return None
    return replace(
        sample,
        turns=tuple(turn for turn in turns if turn is not None),
        things=tuple(region for region in things if region is not None),
        truth=_changed_truth(sample, lambda mask: np.ascontiguousarray(mask[:, ::-1])),
        boxes=tuple(None if found is None else _flipped_found(found, width) for found in sample.boxes),
    )


def _flipped_turn(turn: Turn, width: int) -> Turn | None:
    closing = own_closing(turn)
    question = turned(turn.question, row_kept=closing is not None)
    answer = turned(turn.answer if closing is None else closing)
    regions = [_flipped_region(region, width) for region in turn.regions]
    if question is None or answer is None or None in regions:
        return None
    kept = tuple(region for region in regions if region is not None)
    prompts = tuple(_flipped_prompt(prompt, width) for prompt in turn.prompts)
    if closing is None:
        return Turn(question, answer, _phrases_in_order(answer, kept), prompts)
    kept = left_to_right(kept)
    return Turn(question, grounded_answer(kept, answer), kept, prompts)


def _flipped_prompt(prompt: RegionPrompt, width: int) -> RegionPrompt:
    mask = None if prompt.mask is None else np.ascontiguousarray(prompt.mask[:, ::-1])
    return RegionPrompt(flipped_box(prompt.box_xyxy_px, width), mask, prompt.image)


def _phrases_in_order(answer: str, regions: Sequence[Region]) -> tuple[Region, ...]:
    """Return the regions of an answer, those of one phrase of it from left to right."""
    found = split_objects(answer)
    if len(found) != len(regions):  # a row that the processor refuses by name
        return tuple(regions)
    ordered: list[Region] = []
    for _, part in groupby(zip(found, regions, strict=True), key=lambda pair: pair[0].group):
        ordered += left_to_right([region for _, region in part])
    return tuple(ordered)


def _flipped_region(region: Region, width: int) -> Region | None:
    phrase = turned(region.phrase)
    if phrase is None:
        return None
    mask = None if region.mask is None else np.ascontiguousarray(region.mask[:, ::-1])
    return Region(phrase, mask, None if region.box_xyxy_px is None else flipped_box(region.box_xyxy_px, width))


def flipped_box(box: BoxXYXY, width: int) -> BoxXYXY:
    """Return a box (xyxy in pixels) of the mirrored image."""
    return width - box[2], box[1], width - box[0], box[3]


def _flipped_found(found: DetectedBoxes, width: int) -> DetectedBoxes:
    corners = found.boxes_xyxy_px.copy()
    corners[:, [0, 2]] = width - corners[:, [2, 0]]
    return DetectedBoxes(corners, found.scores, found.labels)


# ---------------------------------------------------------------- cropped
def cropped(sample: Sample, window: Window, min_visible: float) -> Sample | None:
    """Return ``sample`` of the part ``window`` of its image.

    None where an object that a turn speaks of would keep less than ``min_visible`` of its area. Objects that are
    outside altogether are left out of answers that list every one there is, as long as one stays.
    """
    turns = [_cropped_turn(turn, window, min_visible) for turn in sample.turns]
    if None in turns:
        return None
    things = [_cropped_region(region, window) for region in sample.things]
    x0, y0, x1, y1 = window
    return replace(
        sample,
        turns=tuple(turn for turn in turns if turn is not None),
        things=tuple(part.region for part in things if part.visible > 0),
        truth=_changed_truth(sample, lambda mask: np.ascontiguousarray(mask[y0:y1, x0:x1]))
        | ({"height": y1 - y0, "width": x1 - x0} if "height" in sample.truth else {}),
        boxes=tuple(None if found is None else _cropped_found(found, window, min_visible) for found in sample.boxes),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    region: Region
    visible: float
    """Share of the object's area that the crop keeps, 0 to 1."""


def _cropped_turn(turn: Turn, window: Window, min_visible: float) -> Turn | None:
    prompts = [_cropped_prompt(prompt, window, min_visible) for prompt in turn.prompts]
    if None in prompts:
        return None
    turn = replace(turn, prompts=tuple(prompt for prompt in prompts if prompt is not None))
    parts = [_cropped_region(region, window) for region in turn.regions]
    kept = [part for part in parts if part.visible > 0]
    if any(part.visible < min_visible for part in kept) or (parts and not kept):
        return None
    regions = tuple(part.region for part in kept)
    if len(kept) == len(parts):
        return replace(turn, regions=regions)
    closing = own_closing(turn)
    if closing is None:
        return None
    return replace(turn, answer=grounded_answer(regions, closing), regions=regions)


def _cropped_prompt(prompt: RegionPrompt, window: Window, min_visible: float) -> RegionPrompt | None:
    """A region that a question points at; None where too little of it is left to be pointed at."""
    part = _cropped_region(Region("", prompt.mask, prompt.box_xyxy_px), window)
    box = part.region.box_xyxy_px
    return None if box is None or part.visible < min_visible else RegionPrompt(box, part.region.mask, prompt.image)


def _cropped_region(region: Region, window: Window) -> _Part:
    box = None if region.box_xyxy_px is None else cropped_box(region.box_xyxy_px, window)
    if region.mask is None:
        whole = 0.0 if region.box_xyxy_px is None else _area(region.box_xyxy_px)
        return _Part(replace(region, box_xyxy_px=box), _area(box) / whole if box is not None and whole else 0.0)
    x0, y0, x1, y1 = window
    mask: MaskArray = np.ascontiguousarray(region.mask[y0:y1, x0:x1])
    whole = float(region.mask.sum())
    visible = float(mask.sum()) / whole if whole else 1.0  # nothing of a thing that is not there can be lost
    if visible < 1.0 and region.box_xyxy_px is not None:
        box = mask_to_box_xyxy_px(mask)
    return _Part(Region(region.phrase, mask, box), visible)


def cropped_box(box: BoxXYXY, window: Window) -> BoxXYXY | None:
    """Return what ``window`` shows of a box (xyxy in pixels), as pixels of the window; None where that is nothing."""
    x0, y0, x1, y1 = window
    inside = max(box[0], x0) - x0, max(box[1], y0) - y0, min(box[2], x1) - x0, min(box[3], y1) - y0
    return (float(inside[0]), float(inside[1]), float(inside[2]), float(inside[3])) if _area(inside) > 0 else None


def _cropped_found(found: DetectedBoxes, window: Window, min_visible: float) -> DetectedBoxes:
    boxes = [(float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in found.boxes_xyxy_px]
    inside = [cropped_box(box, window) for box in boxes]
    kept = [
        (place, part)
        for place, (box, part) in enumerate(zip(boxes, inside, strict=True))
        if part is not None and _area(part) >= min_visible * _area(box)
    ]
    places = [place for place, _ in kept]
    corners = np.asarray([part for _, part in kept], dtype=np.float64).reshape(-1, 4)
    return DetectedBoxes(corners, found.scores[places], tuple(found.labels[place] for place in places))


# ---------------------------------------------------------------- both
def own_closing(turn: Turn) -> str | None:
    """Return the closing sentence of an answer that lists its regions from left to right, as our readers write it.

    None for any other answer: its words and the order of its regions belong together.
    """
    if not turn.regions or any(region.mask is None and region.box_xyxy_px is None for region in turn.regions):
        return None
    listed = grounded_answer(turn.regions)
    if not turn.answer.startswith(listed) or left_to_right(turn.regions) != tuple(turn.regions):
        return None
    return turn.answer[len(listed) :].strip()


def _changed_truth(sample: Sample, change: Callable[[MaskArray], MaskArray]) -> dict[str, Any]:
    """Return ``sample.truth`` with its masks changed."""
    return {
        key: change(value) if isinstance(value, np.ndarray) and value.ndim == 2 else value
        for key, value in sample.truth.items()
    }


def _area(box: Sequence[float]) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
