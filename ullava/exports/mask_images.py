"""Masks as PNG: one of 0 and 255 for each object, or one palette image of class numbers for each image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ullava.atomic_write import write_json
from ullava.errors import UserError
from ullava.exports.collection import Collection, Pictured, Thing
from ullava.exports.settings import Settings
from ullava.inference.overlay import PALETTE

OBJECTS, PALETTE_FORM = "objects", "palette"
MAX_CLASSES = 255
"""A palette image holds a byte a pixel, and 0 is what belongs to no class."""


def write_masks(collection: Collection, out: Path, settings: Settings) -> list[str]:
    """Write ``masks/`` and ``masks.json``, which names for each image its objects, with their files, scores and boxes.

    Form objects: ``masks/<image>_<number>.png``, 0 and 255. Form palette: ``masks/<image>.png``, 0 where nothing is,
    else the class's number from 1; where objects overlap, the one of the higher score is seen.

    Raises:
        UserError: more than 255 classes for the form palette.
    """
    palette = settings.form == PALETTE_FORM
    if palette and len(collection.classes) > MAX_CLASSES:
        raise UserError(f"--form palette: {len(collection.classes)} classes, but a palette image has {MAX_CLASSES}")
    (out / "masks").mkdir()
    hidden = boxes_alone = 0
    entries: list[dict[str, Any]] = []
    for image in collection.images:
        objects = [_entry(thing, collection.classes) for thing in image.things]
        boxes_alone += sum(thing.mask is None for thing in image.things)
        entry: dict[str, Any] = {"image": image.name, "height": image.height, "width": image.width}
        if palette:
            labels, lost = _labels(image)
            hidden += lost
            entry["file"] = f"masks/{image.stem}.png"
            _write_palette(labels, out / entry["file"])
        else:
            for number, (thing, told) in enumerate(zip(image.things, objects, strict=True), start=1):
                told["file"] = None if thing.mask is None else f"masks/{image.stem}_{number:03d}.png"
                if thing.mask is not None:
                    Image.fromarray(thing.bitmap().astype(np.uint8) * 255).save(out / told["file"])
        entries.append({**entry, "objects": objects})
    classes = {str(number): name for number, name in enumerate(collection.classes, start=1)}
    write_json(out / "masks.json", {"classes": classes, "images": entries})
    notes = [f"{boxes_alone} objects have no mask: they are in masks.json alone"] if boxes_alone else []
    if palette:
        notes.append(f"objects of one class are one in a palette image; {hidden} pixels lie below another object")
    return notes


def _entry(thing: Thing, classes: list[str]) -> dict[str, Any]:
    return {
        "class": classes[thing.label], "phrase": thing.phrase, "group": thing.group, "score": thing.score,
        "box_xyxy_px": list(thing.own_box_xyxy_px), "question": thing.question, "prompt": thing.prompt,
    }  # fmt: skip


def _labels(image: Pictured) -> tuple[NDArray[np.uint8], int]:
    """Return class numbers from 1 [H, W], and how many pixels of objects are hidden below objects of other classes."""
    labels = np.zeros((image.height, image.width), np.uint8)
    hidden = 0
    for thing in sorted((one for one in image.things if one.mask is not None), key=lambda one: one.score):
        mask = thing.bitmap()
        below = labels[mask]
        hidden += int(np.count_nonzero((below != 0) & (below != thing.label + 1)))
        labels[mask] = thing.label + 1
    return labels, hidden


def _write_palette(labels: NDArray[np.uint8], path: Path) -> None:
    picture = Image.fromarray(labels).convert("L")
    picture.putpalette([0, 0, 0, *(value for number in range(MAX_CLASSES) for value in PALETTE[number % len(PALETTE)])])
    picture.save(path)
