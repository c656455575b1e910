"""FiftyOne: a folder that ``fiftyone.Dataset.from_dir(dataset_type=fiftyone.types.FiftyOneDataset)`` reads.

Written without the library, which would want its database: ``samples.json`` in the form that ``Sample.from_dict`` reads
(what the library calls legacy, known by the absence of a version in ``metadata.json``).
"""

from __future__ import annotations

import base64
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ullava.atomic_write import write_json
from ullava.exports.collection import Collection, Pictured, Thing
from ullava.exports.images import place_images
from ullava.exports.settings import Settings
from ullava.structures import BoxXYXY, MaskArray

FIELD = "ullava"
"""The samples' field that holds the detections."""


def write_fiftyone(collection: Collection, out: Path, settings: Settings) -> list[str]:
    """Write ``data/`` with the images, ``samples.json`` and ``metadata.json``.

    Each object is a Detection: box as [x, y, width, height] by the image's size, mask bool, cut to that box;
    ``question``, ``prompt``, ``phrase`` and ``group`` are attributes, and ``model_box`` where the model gave another
    box than the mask's.
    """
    place_images(collection, out / "data", link=settings.link)
    samples = []
    for image in collection.images:
        detections = [_detection(thing, image, collection) for thing in image.things]
        metadata = {"_cls": "ImageMetadata", "width": image.width, "height": image.height}
        sample = {"filepath": f"data/{image.file_name}", "tags": [], "metadata": metadata}
        samples.append({**sample, FIELD: {"_cls": "Detections", "detections": detections}})
    write_json(out / "samples.json", {"samples": samples})
    info = {"classes": {FIELD: collection.classes}}
    write_json(out / "metadata.json", {"name": FIELD, "media_type": "image", "info": info})
    return []


def _detection(thing: Thing, image: Pictured, collection: Collection) -> dict[str, Any]:
    size = image.width, image.height
    value: dict[str, Any] = {
        "_cls": "Detection", "attributes": {}, "tags": [], "label": collection.classes[thing.label],
        "bounding_box": relative_box(thing.shown_box_xyxy_px, *size), "confidence": thing.score,
        "phrase": thing.phrase, "group": thing.group, "question": thing.question, "prompt": thing.prompt,
    }  # fmt: skip
    if thing.mask is not None:
        value["mask"] = {"$binary": {"base64": _packed(crop(thing.bitmap(), thing.shown_box_xyxy_px)), "subType": "00"}}
        if thing.box_xyxy_px not in (None, thing.mask_box_xyxy_px):
            value["model_box"] = relative_box(thing.own_box_xyxy_px, *size)
    return value


def relative_box(box_xyxy_px: BoxXYXY, width: int, height: int) -> list[float]:
    """Return a box as FiftyOne wants it: [x, y, width, height] as fractions of the image, from the top left."""
    x0, y0, x1, y1 = box_xyxy_px
    return [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]


def crop(mask: MaskArray, box_xyxy_px: BoxXYXY) -> MaskArray:
    """Return the part of a mask [H, W] in a box of whole pixels."""
    x0, y0, x1, y1 = (int(value) for value in box_xyxy_px)
    return mask[y0:y1, x0:x1]


def _packed(mask: MaskArray) -> str:
    """Return an array as FiftyOne stores it: a .npy file, deflated, base64."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(mask), allow_pickle=False)
    return base64.b64encode(zlib.compress(file.getvalue())).decode("ascii")
