"""From boxes that a detector found to the boxes that MG-LLaVA makes tokens of (arXiv 2406.17770, released code).

Ours: suppression within a class, then the best by score up to one number, drawn on the high-resolution view as they
are. ``released_boxes`` is the published order of the same steps with its rounding, its soft cap and its filler box, for
released weights. k boxes are corners float64 [k, 4]; scores are [k], classes k strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ullava.geometry import Boxes, View, as_coordinates, box_iou

NMS_IOU = 0.2
"""Of two boxes of one class that overlap by more than this, the one with the lower score goes."""

SOFT_CAP = ((50, 20), (0, 5))
"""Published cap by class: above this limit, so many boxes a class. (A limit of 50 was forgotten; it counts as more.)"""


def suppress(boxes: ArrayLike, scores: ArrayLike, labels: Sequence[str]) -> NDArray[np.int64]:
    """Places of the boxes that class-wise non-maximum suppression keeps, by falling score (equal ones in their order).

    Raises ValueError when boxes, scores and labels do not number the same.
    """
    corners, values = as_coordinates(boxes), np.asarray(scores, dtype=np.float64).reshape(-1)
    if not len(corners) == len(values) == len(labels):
        raise ValueError(f"{len(corners)} boxes, {len(values)} scores, {len(labels)} labels")
    order = np.argsort(-values, kind="stable")
    kept: dict[str, list[int]] = {}
    chosen: list[int] = []
    for place in order.tolist():
        rivals = kept.setdefault(labels[place], [])
        if rivals and (box_iou(corners[[place]], corners[rivals]) > NMS_IOU).any():
            continue
        rivals.append(place)
        chosen.append(place)
    return np.asarray(chosen, dtype=np.int64)


def boxes_on_view(
    boxes_xyxy_px: ArrayLike, scores: ArrayLike, labels: Sequence[str], view: View, limit: int
) -> tuple[Boxes, int]:
    """The ``limit`` best boxes of an image in pixels of ``view``, float64 [k, 4], and how many were left out.

    Boxes are cut at the image's edge; those outside it, and those that another of their class stands for, go first.
    """
    corners = as_coordinates(boxes_xyxy_px)
    places = suppress(corners, scores, labels)
    width, height = view.orig_wh
    inside = corners[places].clip(0, [width, height, width, height])
    seen = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    best = inside[seen][:limit]
    return view.to_view(best) if len(best) else as_coordinates([]), len(corners) - len(best)


def released_boxes(
    boxes_xyxy_px: ArrayLike,
    scores: ArrayLike,
    labels: Sequence[str],
    orig_wh: tuple[int, int],
    side: int,
    *,
    limit: int | None = 100,
    limit_mode: Literal["per_category", "per_image"] = "per_category",
    long_text: bool = False,
) -> tuple[Boxes, list[str]]:
    """Boxes [k, 4] in whole pixels of the square view, and their classes, as the published preprocessing gives them.

    Nothing found is one box at the origin. Where the cap runs, boxes come grouped by class, even if none is dropped.
    For some sides M the product M * (side / M) falls below the side, and every coordinate comes out one pixel larger.
    """
    corners = as_coordinates(boxes_xyxy_px)
    if len(corners) == 0:
        return np.zeros((1, 4)), []
    width, height = orig_wh
    longest = max(orig_wh)
    margin = ((longest - width) // 2, (longest - height) // 2)
    places = suppress(corners, scores, labels).tolist()
    if long_text or (limit is not None and len(places) > limit):
        if limit_mode == "per_image" and not long_text:
            places = places[:limit]
        else:
            most = 1 if long_text else next((each for bound, each in SOFT_CAP if (limit or 0) >= bound), 1)
            by_class: dict[str, list[int]] = {}
            for place in places:
                by_class.setdefault(labels[place], []).append(place)
            places = [place for members in by_class.values() for place in members[:most]]
    scale = side / longest
    shift = (side - int(longest * scale) + 1) // 2
    drawn = np.rint((corners[places] + np.tile(margin, 2)) * scale) + shift
    return drawn.clip(0, side), [labels[place] for place in places]
