"""The regions that the questions of a row point at: markers in its words, and where the vision encoder sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ullava.errors import DataError, SampleError, UserError
from ullava.examples import BASE_VIEW, ImageExample, RegionExample, TokenCount
from ullava.geometry import View, mask_to_box_xyxy_px
from ullava.geometry.region_prompts import as_regions, region_inside
from ullava.modeling.cores.core_contract import TAKES_NO_REGIONS
from ullava.modeling.vision.region_tokens import FIELDS
from ullava.structures import ImageArray, MaskArray, RegionPrompt, Sample, Turn
from ullava.text.tokens import REGION_MARKER, REGION_PATCH


def check_prompts(sample: Sample, grid: int | None, images: int) -> None:
    """Raise SampleError where markers and regions of a question do not number the same, or nothing can be pointed at.

    ``grid``: the model's (``UllavaConfig.region_grid``); None = it takes no regions.
    """
    for turn in sample.turns:
        markers = turn.question.count(REGION_MARKER)
        if not turn.prompts:
            continue
        if grid is None:
            raise SampleError(sample.name, TAKES_NO_REGIONS)
        if markers != len(turn.prompts):
            raise SampleError(sample.name, f"{markers} {REGION_MARKER} markers, {len(turn.prompts)} regions")
        if not images:
            raise SampleError(sample.name, "a region lies on an image, and the question shows none")


def check_pointed(sample: Sample, grid: int | None) -> None:
    """Raise UserError for a question that a person asks with a ``<region>`` and no region, where the model takes some.

    (In a data set, and with a model that takes none, it is a word like others.)
    """
    if grid is not None and any(REGION_MARKER in turn.question and not turn.prompts for turn in sample.turns):
        raise UserError(f"the question says {REGION_MARKER}, but no region is given")


def regions_by_row(given: Any, places: Sequence[int], grid: int | None) -> list[tuple[RegionPrompt, ...]]:
    """Share out what a call of the processor was given over its texts, which have so many ``places`` for regions.

    ``given``: the regions of the only text, or a list of regions for each. ``grid``: see ``check_prompts``.
    Raises UserError for what is no region, for other numbers than the places, and for a model that takes none.
    """
    if given is None:
        rows: list[tuple[RegionPrompt, ...]] = [()] * len(places)
    elif grid is None:
        raise UserError(TAKES_NO_REGIONS)
    elif len(places) == 1 and not _is_nested(given):
        rows = [as_regions(given)]
    elif not isinstance(given, list | tuple) or len(given) != len(places):
        raise UserError(f"regions: give a list of regions for each of the {len(places)} texts")
    else:
        rows = [as_regions(row or ()) for row in given]
    for number, (row, count) in enumerate(zip(rows, places, strict=True), start=1):
        if len(row) != count:
            raise UserError(f"row {number}: the text has {count} {REGION_MARKER} markers, {len(row)} regions are given")
    return rows


def _is_nested(given: Any) -> bool:
    """Whether these are lists of regions, and not regions: boxes hold numbers alone."""
    return isinstance(given, list | tuple) and all(
        isinstance(row, list | tuple) and not any(isinstance(entry, int | float | np.number) for entry in row)
        for row in given
    )


def with_region_places(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Return the turns with a placeholder for each marker of a region that came with its question."""
    return tuple(
        replace(turn, question=turn.question.replace(REGION_MARKER, REGION_PATCH)) if turn.prompts else turn
        for turn in turns
    )


def region_examples(
    sample: Sample, images: Sequence[ImageArray], examples: Sequence[ImageExample], grid: int | None
) -> tuple[RegionExample, ...]:
    """Lay every region of a row into the view ``base`` of its image.

    Raises SampleError for one on an image that is not there, outside of it, or outside of what the view shows.
    """
    prompts = [prompt for turn in sample.turns for prompt in turn.prompts]
    if grid is None or not prompts:
        return ()
    made = []
    for number, prompt in enumerate(prompts):
        place = len(images) - 1 if prompt.image is None else prompt.image
        if place >= len(images):
            raise SampleError(sample.name, f"regions[{number}] is on image {place}, the question has {len(images)}")
        try:
            inside = region_inside(prompt, (images[place].shape[0], images[place].shape[1]))
            box, shares = _laid(inside, examples[place].geometry[BASE_VIEW], grid)
        except DataError as error:
            raise SampleError(sample.name, f"regions[{number}] {error}") from error
        made.append(RegionExample(place, box, shares, TokenCount(grid**2, grid**2)))
    return tuple(made)


def _laid(region: RegionPrompt, view: View, grid: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """The box of a region in fractions of ``view``, float32 [4], and the shares of its fields that a mask covers."""
    shown = view.to_orig([0.0, 0.0, *view.size_wh])
    if region.mask is None:
        box = np.concatenate(
            [np.maximum(region.box_xyxy_px[:2], shown[:2]), np.minimum(region.box_xyxy_px[2:], shown[2:])]
        )
        shares = None
    else:
        x0, y0, x1, y1 = (max(round(float(edge)), 0) for edge in shown)
        seen = np.zeros_like(region.mask)
        seen[y0:y1, x0:x1] = region.mask[y0:y1, x0:x1]
        found = mask_to_box_xyxy_px(seen)
        box = np.asarray((0.0, 0.0, 0.0, 0.0) if found is None else found)
        shares = _shares(seen, box, grid * FIELDS)
    if box[0] >= box[2] or box[1] >= box[3]:
        raise DataError("lies in a part of the image that the vision encoder does not see (image_aspect_ratio crop)")
    fractions = view.to_view(box) / np.tile(view.size_wh, 2)
    return fractions.clip(0.0, 1.0).astype(np.float32), shares


def _shares(mask: MaskArray, box: NDArray[np.float64], side: int) -> NDArray[np.float32]:
    """How much of each of ``side`` x ``side`` fields of ``box`` the mask [H, W] covers, float32."""
    x0, y0, x1, y1 = box.astype(int)
    cut = torch.from_numpy(np.ascontiguousarray(mask[y0:y1, x0:x1]).astype(np.float32))
    if cut.numel() == 0:
        return np.zeros((side, side), dtype=np.float32)
    covered: NDArray[np.float32] = functional.adaptive_avg_pool2d(cut[None], side)[0].numpy()
    return covered
