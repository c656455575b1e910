"""COCO's instances form: ``{images, annotations, categories}``; polygons or RLE, crowd regions kept as such."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ullava.data.coco_rows import coco_rows
from ullava.data.file_names import find_below
from ullava.data.imports.items import Faults, Import, Item, upright_size_hw
from ullava.data.json_stream import iter_object_lists
from ullava.errors import DataError, did_you_mean
from ullava.geometry import segmentation_to_mask


def read_coco(images: Path, annotations: Path) -> Import:
    """Read a COCO file and its pictures.

    Faults: a picture that is missing, unreadable or of another size than the file says (all its annotations go with
    it); an annotation without segmentation, of an unknown category, with a polygon of fewer than three points or a mask
    of another size. Pictures without an instance are named, but are no fault. Raises DataError for a file that cannot
    be understood (cut off, double ids, unknown pictures).
    """
    if not annotations.is_file():
        raise DataError(f"{annotations}: no such annotation file")
    facts, rows = coco_rows(annotations, lambda _: None)
    categories = {int(number): name for number, name in facts["categories"].items()}
    faults = Faults()
    items: list[Item] = []
    asked: set[str] = set()
    for row in rows:
        value = json.loads(row.record)
        asked.add(value["image_path"])
        item = _item(value, images, f"{annotations}:{row.line}: {value['image_path']}", categories, faults)
        if item is not None:
            items.append(item)
    for _, record in iter_object_lists(annotations, ("images",)):
        if record.value.get("file_name") is not None and record.value["file_name"] not in asked:
            faults.leave(f"{annotations}:{record.line}: {record.value['file_name']}", "no instance but crowd regions")
    listed = [{"id": number, "name": name} for number, name in sorted(categories.items())]
    names = [entry["name"] for entry in listed]
    return Import(
        layout="coco_instances", task="instance", items=items, classes=names, categories=listed, faults=faults
    )


def _item(
    value: Mapping[str, Any], images: Path, where: str, categories: Mapping[int, str], faults: Faults
) -> Item | None:
    with faults.noting(where):
        picture = find_below(images, value["image_path"])
        size = upright_size_hw(picture)
        if size != (value["height"], value["width"]):
            raise DataError(
                f"{picture} has {size[1]} x {size[0]} pixels (width x height), but the file says "
                f"{value['width']} x {value['height']}; {len(value['annotations'])} annotations go with it"
            )
        kept = [entry for entry in value["annotations"] if _usable(entry, size, where, categories, faults)]
        if not any(entry.get("iscrowd", 0) != 1 for entry in kept):
            raise DataError("no usable instance is left on this picture")
        name = picture.relative_to(images).as_posix()
        return Item(picture=picture, name=name, size_hw=size, records=({"annotations": kept},))
    return None


def _usable(
    entry: Mapping[str, Any], size_hw: tuple[int, int], where: str, categories: Mapping[int, str], faults: Faults
) -> bool:
    name = f"{where}: annotation {entry['id']}"
    before = len(faults.found)
    with faults.noting(name):
        number = entry.get("category_id")
        if number not in categories:
            known = did_you_mean(str(number), map(str, categories))
            raise DataError(f"unknown category_id {number}{known}")
        if entry.get("iscrowd", 0) not in (0, 1):
            raise DataError(f"'iscrowd' has to be 0 or 1, not {entry['iscrowd']!r}")
        if not segmentation_to_mask(entry.get("segmentation"), *size_hw).any():
            raise DataError("the mask has no pixel")
    return len(faults.found) == before
