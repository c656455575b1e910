"""YOLO segmentation: ``images/``, ``labels/`` with one line for each object, and ``data.yaml`` (ultralytics' form)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from ullava.atomic_write import write_whole
from ullava.exports.collection import Collection, Pictured, Thing
from ullava.exports.images import place_images
from ullava.exports.pixel_outlines import Loss, draw_rings, join_rings, pixel_rings
from ullava.exports.settings import Settings

WITHIN_PIXEL = 0.25
"""Where in its pixel a point lies. Readers multiply by the image's size and cut off (ultralytics) or round
(supervision): a quarter comes out as the same pixel in both, the left edge or the middle in one alone."""


def write_yolo(collection: Collection, out: Path, settings: Settings) -> list[str]:
    """Write a label file for each image, an empty one where nothing was found: ``class x y x y ...``, by the image's
    size, one line for each object with a mask. Where no object has one, the lines are boxes: ``class x y w h``.
    """
    place_images(collection, out / "images", link=settings.link)
    (out / "labels").mkdir()
    objects = collection.things()
    boxes_alone = sum(thing.mask is None for _, thing in objects)
    as_boxes = bool(objects) and boxes_alone == len(objects)
    loss = Loss()
    for image in collection.images:
        things = [thing for thing in image.things if as_boxes or thing.mask is not None]
        lines = [_box_line(thing, image) if as_boxes else _outline(thing, image, loss) for thing in things]
        write_whole(out / "labels" / f"{image.stem}.txt", "".join(f"{line}\n" for line in lines))
    names = dict(enumerate(collection.classes))
    write_whole(
        out / "data.yaml",
        yaml.safe_dump({"train": "images", "val": "images", "names": names}, allow_unicode=True, sort_keys=False),
    )
    notes = loss.note("holes are filled, and parts joined by lines of one pixel")
    if as_boxes:
        notes.append("no object has a mask: the lines are boxes (YOLO detection)")
    elif boxes_alone:
        notes.append(f"left out: {boxes_alone} objects without a mask (files for segmentation hold no boxes)")
    return [*notes, "scores and prompts are lost: YOLO has no place for them"]


def _outline(thing: Thing, image: Pictured, loss: Loss) -> str:
    mask = thing.bitmap()
    ring = join_rings(pixel_rings(mask))
    loss.add(mask, draw_rings([ring], image.height, image.width))
    points = (ring + WITHIN_PIXEL) / np.array([image.width, image.height])
    return " ".join([str(thing.label), *(f"{value:.7f}" for value in points.ravel())])


def _box_line(thing: Thing, image: Pictured) -> str:
    x0, y0, x1, y1 = thing.own_box_xyxy_px
    middle = (x0 + x1) / 2 / image.width, (y0 + y1) / 2 / image.height
    size = (x1 - x0) / image.width, (y1 - y0) / image.height
    return " ".join([str(thing.label), *(f"{value:.7f}" for value in (*middle, *size))])
