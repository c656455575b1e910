"""A folder of LabelMe files: every shape with an area is an instance of the class that its label names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ullava.data.annotations.encodings import UTF_8
from ullava.data.annotations.file_names import find_below, last_part
from ullava.data.annotations.json_stream import is_finite_number
from ullava.data.converters.imported.classes import ClassList
from ullava.data.converters.imported.items import JOINED, Faults, Import, Item, annotated_size_hw, one_file
from ullava.data.converters.imported.sizes import check_stated_size
from ullava.data.converters.published.labelme import read_labelme
from ullava.data.converters.published.labelme_shapes import Shape, read_shape
from ullava.data.converters.published.source import IMAGE_SUFFIXES, files_in
from ullava.errors import DataError
from ullava.geometry import mask_to_box_xyxy_px, rle_encode, xyxy_to_xywh
from ullava.structures import MaskArray
from ullava.text.phrases import name_fault

UNASKED = ("__ignore__", "_background_")
"""Labels that LabelMe itself uses for what is no thing."""


class _Drawn(NamedTuple):
    """One file: the image that it annotates, and label and areas of each instance."""

    path: Path
    image: Path
    name: str
    size_hw: tuple[int, int]
    instances: list[tuple[str, list[Shape]]]


def read_labelme_folder(
    images: Path,
    annotations: Path,
    classes: Sequence[str] | None = None,
    *,
    encoding: str = UTF_8,
    stored_pixels: bool = False,
) -> Import:
    """Read every ``.json`` of ``annotations``; images are found by ``imagePath``'s last part, or by equal names.

    Shapes of one file with one label and one ``group_id`` are one instance; several files may annotate one image.
    ``classes``: the names that may occur, in the order of their numbers (None: all labels, sorted). Faults: a file that
    is cut off or no LabelMe, an image that is missing, unreadable or of another size than the file says, and shapes
    without an area, with fewer than three points or outside the image. A file without shapes is no fault, but named.
    """
    faults = Faults()
    drawn: list[_Drawn] = []
    for path in files_in(annotations, (".json",)).values():
        with faults.noting(str(path)):
            value = read_labelme(path, encoding)
            image = _image(images, path, value)
            size = annotated_size_hw(image, stored_pixels)
            stated = (value.get("imageHeight"), value.get("imageWidth"))
            if not all(side is None or is_finite_number(side) for side in stated):
                raise DataError("'imageHeight' and 'imageWidth' have to be numbers")
            check_stated_size(image, size, stated, stored_pixels=stored_pixels)
            if not value["shapes"]:
                faults.leave(str(path), "no shape")
                continue
            instances = _instances(path, value["shapes"], size, faults)
            if not instances:
                raise DataError("no usable shape is left")
            drawn.append(_Drawn(path, image, image.relative_to(images).as_posix(), size, instances))
    labels = sorted({label for one in drawn for label, _ in one.instances})
    listed = ClassList(labels if classes is None else classes, closed=classes is not None)
    return Import(
        layout="coco_instances",
        task="instance",
        items=_items(drawn, listed, faults),
        classes=listed.names,
        faults=faults,
    )


def _items(drawn: Sequence[_Drawn], classes: ClassList, faults: Faults) -> list[Item]:
    """Join files of one image. A shape that is there twice, with one label and one mask, counts once."""
    by_image: dict[str, list[_Drawn]] = {}
    for one in drawn:
        group = by_image.setdefault(one_file(one.image), [])
        if group:
            faults.note(JOINED, str(one.path), f"annotates {one.name}, as {group[0].path.name} does")
        group.append(one)
    items: list[Item] = []
    for group in by_image.values():
        first = group[0]
        entries: dict[tuple[int, str], dict[str, Any]] = {}
        for one in group:
            for label, shapes in one.instances:
                with faults.noting(str(one.path)):
                    mask = np.logical_or.reduce([shape.mask(one.size_hw) for shape in shapes])
                    entry = _annotation(classes.number(label), shapes, mask)
                    key = (entry["category_id"], str(rle_encode(mask)))
                    if key in entries:
                        faults.note(JOINED, str(one.path), f"a '{label}' is there twice, the same one")
                    entries.setdefault(key, entry)
        if entries:
            record = {"annotations": list(entries.values())}
            items.append(Item(image=first.image, name=first.name, size_hw=first.size_hw, records=(record,)))
    return items


def _annotation(category: int, shapes: list[Shape], mask: MaskArray) -> dict[str, Any]:
    """Return the annotation of one instance: polygons where all of it is outlined, RLE with a pasted mask."""
    box = mask_to_box_xyxy_px(mask)
    outlined = all(shape.polygon for shape in shapes)
    segmentation = [shape.polygon for shape in shapes] if outlined else rle_encode(mask)
    entry: dict[str, Any] = {"category_id": category, "segmentation": segmentation, "iscrowd": 0}
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


def _image(images: Path, path: Path, value: dict[str, Any]) -> Path:
    stated = value.get("imagePath")
    if stated is not None and not isinstance(stated, str):
        raise DataError(f"'imagePath' has to be text or null, not {type(stated).__name__}")
    # LabelMe writes the path as the machine of the annotator had it, with either kind of slash.
    last = last_part(stated or "")
    for name in [last] * bool(last) + [path.stem + suffix for suffix in IMAGE_SUFFIXES]:
        image = find_below(images, name)
        if image.is_file():
            return image
    raise DataError(f"no image '{last or path.stem}' in {images}")
