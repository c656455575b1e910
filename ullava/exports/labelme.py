"""LabelMe: a copy of each image with a JSON file of its shapes beside it (labelme 6, ``_label_file.py``)."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ullava.atomic_write import write_json
from ullava.exports.collection import Collection, Pictured, Thing
from ullava.exports.images import place_images
from ullava.exports.pixel_outlines import Loss, draw_rings, pixel_rings
from ullava.exports.settings import Settings

POLYGONS, MASKS = "polygons", "masks"
VERSION = "6.3.1"
"""The labelme whose form this is; the file asks for it."""


def write_labelme(collection: Collection, out: Path, settings: Settings) -> list[str]:
    """Write ``<image>.json`` beside each image.

    Shapes of one ``group_id`` are one object. Form polygons: one polygon for each part, holes are lost; form masks: one
    shape of type ``mask`` (a PNG of its crop, two corners, both inside), which programs that know polygons alone pass
    over. An object without a mask is a rectangle. ``score`` is a key of its own of each shape, the prompt its
    description.
    """
    place_images(collection, out, link=settings.link)
    loss = Loss()
    for image in collection.images:
        shapes = [
            shape
            for number, thing in enumerate(image.things, start=1)
            for shape in _shapes(thing, number, image, collection.classes[thing.label], settings.form, loss)
        ]
        value: dict[str, Any] = {
            "version": VERSION, "flags": {}, "shapes": shapes, "imagePath": image.file_name, "imageData": None,
            "imageHeight": image.height, "imageWidth": image.width,
        }  # fmt: skip
        write_json(out / f"{image.stem}.json", value)
    return loss.note("polygons have no holes; --form masks keeps them")


def _shapes(thing: Thing, group: int, image: Pictured, label: str, form: str, loss: Loss) -> list[dict[str, Any]]:
    """Return the shapes of one object, and note what they lose."""
    shape = {
        "label": label, "points": [], "group_id": group, "description": thing.prompt, "shape_type": "rectangle",
        "flags": {}, "mask": None, "score": thing.score,
    }  # fmt: skip
    if thing.mask is None or thing.mask_box_xyxy_px is None:
        x0, y0, x1, y1 = thing.own_box_xyxy_px
        return [{**shape, "points": [[x0, y0], [x1, y1]]}]
    mask = thing.bitmap()
    if form == MASKS:
        x0, y0, x1, y1 = (int(value) for value in thing.mask_box_xyxy_px)
        _, data = cv2.imencode(".png", mask[y0:y1, x0:x1].astype(np.uint8) * 255)
        picture = base64.b64encode(data.tobytes()).decode("ascii")
        loss.add(mask, mask)
        return [{**shape, "points": [[x0, y0], [x1 - 1, y1 - 1]], "shape_type": "mask", "mask": picture}]
    rings = pixel_rings(mask)
    loss.add(mask, draw_rings(rings, image.height, image.width))
    return [{**shape, "points": ring.astype(float).tolist(), "shape_type": "polygon"} for ring in rings]
