"""A folder of LabelMe files: every shape with an area is an instance of the class that its label names."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ullava.data.imports.items import Faults, Import, Item, upright_size_hw
from ullava.data.originals.labelme import read_labelme, shape_polygon
from ullava.data.originals.source import PICTURE_SUFFIXES, files_in
from ullava.errors import DataError
from ullava.geometry import mask_to_box_xyxy_px, polygons_to_mask, xyxy_to_xywh

UNASKED = ("__ignore__", "_background_")
"""Labels that LabelMe itself uses for what is no thing."""


def read_labelme_folder(images: Path, annotations: Path) -> Import:
    """Read every ``.json`` of ``annotations``; pictures are found by ``imagePath``'s last part, or by equal names.

    Shapes of one file with one label and one ``group_id`` are one instance. Faults: a file that is cut off or no
    LabelMe, a picture that is missing, unreadable or of another size than the file says, and shapes without an area,
    with fewer than three points or outside the picture. A file without shapes is named, but is no fault.
    """
    faults = Faults()
    drawn: list[tuple[Path, str, tuple[int, int], list[tuple[str, list[list[float]]]]]] = []
    for path in files_in(annotations, (".json",)).values():
        with faults.noting(str(path)):
            value = read_labelme(path)
            picture = _picture(images, path, value)
            size = upright_size_hw(picture)
            stated = (value.get("imageHeight"), value.get("imageWidth"))
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
        for label, polygons in instances:
            count += 1
            entries.append(_annotation(count, number_of[label], polygons, size))
        items.append(Item(picture=picture, name=name, size_hw=size, records=({"annotations": entries},)))
    listed = [{"id": number, "name": name} for name, number in number_of.items()]
    return Import(
        layout="coco_instances", task="instance", items=items, classes=classes, categories=listed, faults=faults
    )


def _annotation(number: int, category: int, polygons: list[list[float]], size_hw: tuple[int, int]) -> dict[str, Any]:
    mask = polygons_to_mask(polygons, *size_hw)
    box = mask_to_box_xyxy_px(mask)
    entry: dict[str, Any] = {"id": number, "category_id": category, "segmentation": polygons, "iscrowd": 0}
    entry["area"] = int(mask.sum())
    if box is not None:
        entry["bbox"] = [float(side) for side in xyxy_to_xywh(box)]
    return entry


def _instances(
    path: Path, shapes: list[Any], size_hw: tuple[int, int], faults: Faults
) -> list[tuple[str, list[list[float]]]]:
    """Return label and outlines of each instance, in the order of the file."""
    found: dict[object, tuple[str, list[list[float]]]] = {}
    for place, shape in enumerate(shapes):
        where = f"{path}: shapes[{place}]"
        with faults.noting(where):
            if isinstance(shape, dict) and shape.get("label") in UNASKED:
                faults.leave(where, f"the label is {shape['label']}")
                continue
            label, polygon = shape_polygon(shape, where)
            if not polygons_to_mask([polygon], *size_hw).any():
                raise DataError(f"'{label}': the outline holds no pixel")
            group = shape.get("group_id")
            found.setdefault((label, group) if group is not None else place, (label, []))[1].append(polygon)
    return list(found.values())


def _picture(images: Path, path: Path, value: dict[str, Any]) -> Path:
    stated = value.get("imagePath")
    # LabelMe writes the path as the machine of the annotator had it, with either kind of slash.
    last = PurePosixPath(PureWindowsPath(stated).as_posix()).name if isinstance(stated, str) else ""
    candidates = [images / last] if last else []
    candidates += [images / (path.stem + suffix) for suffix in PICTURE_SUFFIXES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataError(f"no picture '{last or path.stem}' in {images}")
