"""A folder of LabelMe files: every shape with an area is an instance of the class that its label names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from ullava.data.imports.classes import ClassList
from ullava.data.imports.items import JOINED, Faults, Import, Item, one_file, upright_size_hw
from ullava.data.originals.labelme import read_labelme, shape_polygon
from ullava.data.originals.source import PICTURE_SUFFIXES, files_in
from ullava.errors import DataError
from ullava.geometry import mask_to_box_xyxy_px, polygons_to_mask, rle_encode, xyxy_to_xywh

UNASKED = ("__ignore__", "_background_")
"""Labels that LabelMe itself uses for what is no thing."""


class _Drawn(NamedTuple):
    """One file: the picture that it annotates, and label and outlines of each instance."""

    path: Path
    picture: Path
    name: str
    size_hw: tuple[int, int]
    instances: list[tuple[str, list[list[float]]]]


def read_labelme_folder(images: Path, annotations: Path, classes: Sequence[str] | None = None) -> Import:
    """Read every ``.json`` of ``annotations``; pictures are found by ``imagePath``'s last part, or by equal names.

    Shapes of one file with one label and one ``group_id`` are one instance; several files may annotate one picture.
    ``classes``: the names that may occur, in the order of their numbers (None: all labels, sorted). Faults: a file that
    is cut off or no LabelMe, a picture that is missing, unreadable or of another size than the file says, and shapes
    without an area, with fewer than three points or outside the picture. A file without shapes is no fault, but named.
    """
    faults = Faults()
    drawn: list[_Drawn] = []
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
            drawn.append(_Drawn(path, picture, picture.relative_to(images).as_posix(), size, instances))
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
    """Join files of one picture. A shape that is there twice, with one label and one mask, counts once."""
    by_picture: dict[str, list[_Drawn]] = {}
    for one in drawn:
        group = by_picture.setdefault(one_file(one.picture), [])
        if group:
            faults.note(JOINED, str(one.path), f"annotates {one.name}, as {group[0].path.name} does")
        group.append(one)
    items: list[Item] = []
    for group in by_picture.values():
        first = group[0]
        entries: dict[tuple[int, str], dict[str, Any]] = {}
        for one in group:
            for label, polygons in one.instances:
                with faults.noting(str(one.path)):
                    entry = _annotation(classes.number(label), polygons, one.size_hw)
                    key = (entry["category_id"], str(rle_encode(polygons_to_mask(polygons, *one.size_hw))))
                    if key in entries:
                        faults.note(JOINED, str(one.path), f"a '{label}' is there twice, the same one")
                    entries.setdefault(key, entry)
        if entries:
            record = {"annotations": list(entries.values())}
            items.append(Item(picture=first.picture, name=first.name, size_hw=first.size_hw, records=(record,)))
    return items


def _annotation(category: int, polygons: list[list[float]], size_hw: tuple[int, int]) -> dict[str, Any]:
    mask = polygons_to_mask(polygons, *size_hw)
    box = mask_to_box_xyxy_px(mask)
    entry: dict[str, Any] = {"category_id": category, "segmentation": polygons, "iscrowd": 0}
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
