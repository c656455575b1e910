"""Label Studio: tasks with predictions to import (``tasks.json``) and the labeling interface (``label_config.xml``).

Form of the files: ``label_studio_sdk`` (``PredictionValue``; ``converter/brush.py`` for masks). Masks are not COCO's
run lengths but bits of "rle-pack" of thi.ng's umbrella over the image as RGBA.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from ullava.atomic_write import write_json, write_whole
from ullava.exports.collection import Collection, Pictured, Thing
from ullava.exports.settings import Settings
from ullava.structures import BoxXYXY, MaskArray

IMAGE, BRUSH, BOX = "image", "brush", "box"
_WORD_BITS = 8
_SIZE_BITS = (3, 4, 8, 16)
"""In how many bits the length of a run is written, the shortest that holds it."""
_CHANNELS = 4


def write_label_studio(collection: Collection, out: Path, settings: Settings) -> list[str]:
    """Write a task for each image: ``settings.image_url`` and the image's name, and a prediction for each model.

    Masks are brush regions, boxes (the model's own) rectangles in percent; of an object that has both, the mask.
    """
    tasks = []
    for image in collection.images:
        predictions = []
        for model in dict.fromkeys(thing.model for thing in image.things):
            things = [thing for thing in image.things if thing.model == model]
            regions = [_region(f"{number}", thing, image, collection.classes) for number, thing in enumerate(things)]
            score = round(sum(thing.score for thing in things) / len(things), 4)
            predictions.append({"model_version": model or "ullava", "score": score, "result": regions})
        url = settings.image_url + quote(image.name)
        tasks.append({"data": {IMAGE: url}, "predictions": predictions})
    write_json(out / "tasks.json", tasks)
    write_whole(out / "label_config.xml", label_config(collection.classes))
    return ["the model's own box is lost where there is a mask"]


def label_config(classes: Sequence[str]) -> str:
    """Return the labeling interface: brushes and rectangles of ``classes`` on one image."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=IMAGE, value=f"${IMAGE}")
    for tag, name in (("BrushLabels", BRUSH), ("RectangleLabels", BOX)):
        labels = ElementTree.SubElement(view, tag, name=name, toName=IMAGE)
        for label in classes:
            ElementTree.SubElement(labels, "Label", value=label)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _region(name: str, thing: Thing, image: Pictured, classes: Sequence[str]) -> dict[str, Any]:
    """Return one region: of an object that has both, the mask."""
    return region(
        name,
        None if thing.mask is None else thing.bitmap(),
        None if thing.mask is not None else thing.own_box_xyxy_px,
        (image.width, image.height),
        label=classes[thing.label],
        score=thing.score,
        prompt=thing.prompt,
    )


def region(
    name: str,
    mask: MaskArray | None,
    box_xyxy_px: BoxXYXY | None,
    size_wh: tuple[int, int],
    *,
    label: str,
    score: float,
    prompt: str,
    brush: str = BRUSH,
    box: str = BOX,
    image: str = IMAGE,
) -> dict[str, Any]:
    """Return one region of an image of ``size_wh``: of a mask bool [H, W], else of a box.

    ``name``: its id, a text, for with any other the masks of a task are not shown. ``brush``, ``box`` and ``image``:
    how the labeling interface calls its brush, its rectangles and its image. ``prompt``: what was asked.
    Raises ValueError: neither mask nor box.
    """
    width, height = size_wh
    value: dict[str, Any]
    if mask is not None:
        kind, value = "brushlabels", {"format": "rle", "rle": brush_rle(mask), "brushlabels": [label]}
    elif box_xyxy_px is not None:
        x0, y0, x1, y1 = box_xyxy_px
        percent = {
            "x": 100 * x0 / width, "y": 100 * y0 / height,
            "width": 100 * (x1 - x0) / width, "height": 100 * (y1 - y0) / height,
        }  # fmt: skip
        kind, value = "rectanglelabels", {**percent, "rotation": 0, "rectanglelabels": [label]}
    else:
        raise ValueError(f"region '{name}' has neither mask nor box")
    return {
        "id": name, "from_name": brush if mask is not None else box, "to_name": image, "type": kind,
        "original_width": width, "original_height": height, "image_rotation": 0,
        "value": value, "score": score, "readonly": False, "meta": {"text": [prompt]},
    }  # fmt: skip


def brush_rle(mask: MaskArray) -> list[int]:
    """Return a mask [H, W] as the bytes of Label Studio's brush: 255 in all four channels of its pixels.

    Head: number of values (32 bits), bits of a value and of the four lengths, all less one. Then runs: a bit 1, which
    length is used (2 bits), the length less one, the value.
    """
    flat = np.repeat(mask.ravel(), _CHANNELS)
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size).tolist()
    bits = [f"{flat.size:032b}", f"{_WORD_BITS - 1:05b}", *(f"{size - 1:04b}" for size in _SIZE_BITS)]
    start = 0
    for end in ends:
        value = f"{255 if flat[start] else 0:0{_WORD_BITS}b}"
        while start < end:
            length = min(end - start, 1 << _SIZE_BITS[-1])
            kind, size = next(pair for pair in enumerate(_SIZE_BITS) if length <= 1 << pair[1])
            bits += ["1", f"{kind:02b}", f"{length - 1:0{size}b}", value]
            start += length
    code = np.frombuffer("".join(bits).encode("ascii"), np.uint8) - ord("0")
    packed: list[int] = np.packbits(code).tolist()
    return packed
