"""A folder of LabelMe files: every shape with an area is an instance of the class that its label names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ullava.data.encodings import UTF_8
from ullava.data.file_names import find_below, last_part
from ullava.data.imports.items import Faults, Import, Item, upright_size_hw
from ullava.data.json_stream import is_finite_number
from ullava.data.originals.labelme import read_labelme
from ullava.data.originals.labelme_shapes import Shape, read_shape
from ullava.data.originals.source import PICTURE_SUFFIXES, files_in
from ullava.errors import DataError
from ullava.geometry import mask_to_box_xyxy_px, rle_encode, xyxy_to_xywh
from ullava.text.phrases import name_fault

UNASKED = ("__ignore__", "_background_")
"""Labels that LabelMe itself uses for what is no thing."""


def read_labelme_folder(images: Path, annotations: Path, *, encoding: str = UTF_8) -> Import:
    """Read every ``.json`` of ``annotations``; pictures are found by ``imagePath``'s last part, or by equal names.

    ``encoding``: that of the files.
    Shapes of one file with one label and one ``group_id`` are one instance. Faults: a file that is cut off or no
    LabelMe, a picture that is missing, unreadable or of another size than the file says, and shapes without an area,
    with fewer than three points or outside the picture. A file without shapes is named, but is no fault.
    """
    faults = Faults()
    drawn: list[tuple[Path, str, tuple[int, int], list[tuple[str, list[Shape]]]]] = []
    for path in files_in(annotations, (".json",)).values():
        with faults.noting(str(path)):
            value = read_labelme(path, encoding)
            picture = _picture(images, path, value)
            size = upright_size_hw(picture)
            stated = (value.get("imageHeight"), value.get("imageWidth"))
            if not all(side is None or is_finite_number(side) for side in stated):
                raise DataError("'imageHeight' and 'imageWidth' have to be numbers")
            if None not in stated and stated != size:
                raise DataError(
                    f"{picture.name} has {size[1]} x {size[0]} pixels (width x height), but the file says "
                    f"{stated[1]} x {stated[0]}"
                )
            if not value["shapes"]:
                faults.leave(str(path), "no shape")
                continue
            instances = _instances(path, value["shapes"], size, faults)
            if not instances:
                raise DataError("no usable shape is left")
            drawn.append((picture, picture.relative_to(images).as_posix(), size, instances))
    classes = sorted({label for *_, instances in drawn for label, _ in instances})
    number_of = {name: number for number, name in enumerate(classes, start=1)}
    items: list[Item] = []
    count = 0
    for picture, name, size, instances in drawn:
        entries: list[dict[str, Any]] = []
        for label, shapes in instances:
            count += 1
            entries.append(_annotation(count, number_of[label], shapes, size))
        items.append(Item(picture=picture, name=name, size_hw=size, records=({"annotations": entries},)))
    listed = [{"id": number, "name": name} for name, number in number_of.items()]
    return Import(
        layout="coco_instances", task="instance", items=items, classes=classes, categories=listed, faults=faults
    )


def _annotation(number: int, category: int, shapes: list[Shape], size_hw: tuple[int, int]) -> dict[str, Any]:
    """Return the annotation of one instance: polygons where all of it is outlined, RLE with a pasted mask."""
    mask = np.logical_or.reduce([shape.mask(size_hw) for shape in shapes])
    box = mask_to_box_xyxy_px(mask)
    outlined = all(shape.polygon for shape in shapes)
    segmentation = [shape.polygon for shape in shapes] if outlined else rle_encode(mask)
    entry: dict[str, Any] = {"id": number, "category_id": category, "segmentation": segmentation, "iscrowd": 0}
    entry["area"] = int(mask.sum())
    if box is not None:
        entry["bbox"] = [float(side) for side in xyxy_to_xywh(box)]
    return entry


def _instances(
    path: Path, shapes: list[Any], size_hw: tuple[int, int], faults: Faults
) -> list[tuple[str, list[Shape]]]:
    """Return label and areas of each instance, in the order of the file."""
    found: dict[object, tuple[str, list[Shape]]] = {}
    for place, shape in enumerate(shapes):
        where = f"{path}: shapes[{place}]"
        label = shape.get("label") if isinstance(shape, dict) else None
        if isinstance(label, str) and label in UNASKED:
            faults.leave(where, f"the label is {label}")
            continue
        with faults.noting(f"{where} ('{label[:40]}')" if isinstance(label, str) and label.strip() else where):
            area = read_shape(shape)
            fault = name_fault(area.label)
            if fault:
                raise DataError(f"'label' {fault}")
            group = shape.get("group_id")
            if group is not None and not isinstance(group, int | float | str):
                raise DataError(f"'group_id' has to be a number, text or null, not {type(group).__name__}")
            if not area.mask(size_hw).any():
                raise DataError("the outline holds no pixel")
            found.setdefault((area.label, group) if group is not None else place, (area.label, []))[1].append(area)
    return list(found.values())


def _picture(images: Path, path: Path, value: dict[str, Any]) -> Path:
    stated = value.get("imagePath")
    if stated is not None and not isinstance(stated, str):
        raise DataError(f"'imagePath' has to be text or null, not {type(stated).__name__}")
    # LabelMe writes the path as the machine of the annotator had it, with either kind of slash.
    last = last_part(stated or "")
    for name in [last] * bool(last) + [path.stem + suffix for suffix in PICTURE_SUFFIXES]:
        picture = find_below(images, name)
        if picture.is_file():
            return picture
    raise DataError(f"no picture '{last or path.stem}' in {images}")
