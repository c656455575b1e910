"""Annotations that were made on the pixels as a camera stored them become those of the upright image."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from ullava.data.converters.imported.items import Import, Item
from ullava.data.converters.imported.masks import png_bytes
from ullava.geometry import rle_decode, rle_encode, sort_corners, xywh_to_xyxy, xyxy_to_xywh
from ullava.media.images import stored_frame, upright_hw
from ullava.orientation import UPRIGHT, turn_plane, turn_points


def turned_upright(found: Import) -> Import:
    """Turn what was read on stored pixels: boxes, polygons, run-length codes and label images of every item."""
    return replace(found, items=[_turned(item) for item in found.items])


def _turned(item: Item) -> Item:
    stored_hw, orientation = stored_frame(item.image)
    if orientation == UPRIGHT:
        return item
    size_hw = upright_hw(stored_hw, orientation)
    label = item.label_png
    if label is not None:
        plane = np.asarray(Image.open(io.BytesIO(label)))
        label = png_bytes(np.ascontiguousarray(turn_plane(plane, orientation)))
    records = tuple(_record(record, orientation, size_hw) for record in item.records)
    return replace(item, size_hw=size_hw, records=records, label_png=label)


def _record(record: Mapping[str, Any], orientation: int, size_hw: tuple[int, int]) -> dict[str, Any]:
    turned = dict(record)
    if "annotations" in record:
        turned["annotations"] = [_record(part, orientation, size_hw) for part in record["annotations"]]
    if record.get("segmentation") is not None:
        turned["segmentation"] = _segmentation(record["segmentation"], orientation, size_hw)
    if record.get("bbox") is not None:
        corners = turn_points(xywh_to_xyxy(record["bbox"]).tolist(), orientation, size_hw)
        turned["bbox"] = [float(side) for side in xyxy_to_xywh(sort_corners(corners))]
    return turned


def _segmentation(value: Any, orientation: int, size_hw: tuple[int, int]) -> Any:
    if isinstance(value, Mapping):
        return rle_encode(turn_plane(rle_decode(value), orientation))
    if any(isinstance(part, Mapping) for part in value):
        return [_segmentation(part, orientation, size_hw) for part in value]
    return [turn_points(polygon, orientation, size_hw) for polygon in value]
