"""COCO: a dataset (``instances.json``) and a list of results (``results.json``), as pycocotools reads them.

Form of the files: pycocotools (``coco.py``: ``loadRes``, ``annToRLE``) and the dataset's own page, "Data format".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ullava.atomic_write import write_json
from ullava.data.annotations.class_names import class_key
from ullava.errors import DataError, did_you_mean
from ullava.exports.collection import Collection, Pictured
from ullava.exports.settings import Settings
from ullava.geometry import SegmentationError, mask_to_polygons
from ullava.given_files import read_plain_text
from ullava.structures import BoxXYXY, MaskArray

POLYGONS, RLE = "polygons", "rle"


@dataclass(frozen=True, slots=True)
class _Ids:
    """Ids of the images and classes of a collection, in their order; ``images``, ``categories``: as the file says."""

    image: list[int | str]
    category: list[int]
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]


def write_coco(collection: Collection, out: Path, settings: Settings) -> list[str]:
    """Write ``instances.json``: polygons, or run lengths where a mask has holes (and everywhere for the form rle).

    No mask is a crowd: ``iscrowd`` is 0 throughout, also for run lengths. Objects without a mask have an empty
    ``segmentation``. ``score``, ``question`` and ``group`` (which phrase of the question's answer) are keys beyond the
    format, which its readers pass over.
    """
    ids = _ids(collection, settings)
    annotations: list[dict[str, Any]] = []
    boxes_alone = 0
    for number, (image, thing) in enumerate(collection.things(), start=1):
        x, y, width, height = _xywh(thing.shown_box_xyxy_px)
        segmentation: Any = []
        area: float = width * height
        if thing.mask is not None:
            mask = thing.bitmap()
            segmentation, area = _segmentation(mask, settings.form), int(mask.sum())
        else:
            boxes_alone += 1
        annotations.append(
            {
                "id": number, "image_id": ids.image[image], "category_id": ids.category[thing.label],
                "segmentation": segmentation, "area": area, "bbox": [x, y, width, height], "iscrowd": 0,
                "score": thing.score, "question": thing.question, "group": thing.group,
            }
        )  # fmt: skip
    value = {
        "info": {"description": "answers, written by ullava export"}, "licenses": [],
        "images": ids.images, "annotations": annotations, "categories": ids.categories,
    }  # fmt: skip
    write_json(out / "instances.json", value)
    return [f"{boxes_alone} objects have no mask: their segmentation is empty"] if boxes_alone else []


def write_coco_results(collection: Collection, out: Path, settings: Settings) -> list[str]:
    """Write ``results.json`` for ``COCO.loadRes``, and ``images.json`` and ``categories.json``, which say what its ids
    mean (they are not needed with ``ids``). ``bbox`` is the model's own box where it gave one.

    pycocotools reads the keys of a whole file off its first entry, so objects without a mask go into
    ``results_boxes.json`` where others have one.
    """
    ids = _ids(collection, settings)
    masked: list[dict[str, Any]] = []
    boxed: list[dict[str, Any]] = []
    for image, thing in collection.things():
        entry: dict[str, Any] = {"image_id": ids.image[image], "category_id": ids.category[thing.label]}
        if thing.mask is not None:
            entry["segmentation"] = dict(thing.mask)
        entry |= {"bbox": list(_xywh(thing.own_box_xyxy_px)), "score": thing.score}
        (boxed if thing.mask is None else masked).append(entry)
    write_json(out / "results.json", masked or boxed)
    if settings.ids is None:
        write_json(out / "images.json", ids.images)
        write_json(out / "categories.json", ids.categories)
    notes = ["phrases and prompts are lost: COCO results have no place for them"]
    if masked and boxed:
        write_json(out / "results_boxes.json", boxed)
        notes.append(f"{len(boxed)} objects without a mask are in results_boxes.json")
    return notes


def _segmentation(mask: MaskArray, form: str) -> Any:
    """Return polygons of a mask, or uncompressed run lengths of columns, which say holes too."""
    if form != RLE:
        try:
            return mask_to_polygons(mask)
        except SegmentationError:  # a hole
            pass
    return {"size": list(mask.shape), "counts": run_lengths(mask.ravel(order="F"))}


def run_lengths(flat: MaskArray) -> list[int]:
    """Return the lengths of the runs of a flat mask, the first of them zeros (it may be of length 0)."""
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: list[int] = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def _xywh(box: BoxXYXY) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    return x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)


# ---------------------------------------------------------------- ids
def _ids(collection: Collection, settings: Settings) -> _Ids:
    """Number images and classes from 1, or find their ids in the file ``settings.ids``."""
    if settings.ids is None:
        images: list[dict[str, Any]] = [
            {"id": number, "file_name": image.name, "height": image.height, "width": image.width}
            for number, image in enumerate(collection.images, start=1)
        ]
        categories: list[dict[str, Any]] = [
            {"id": number, "name": name} for number, name in enumerate(collection.classes, start=1)
        ]
        return _Ids([image["id"] for image in images], [category["id"] for category in categories], images, categories)
    path = settings.ids
    value = _read(path)
    problems: list[str] = []
    by_name: dict[str, list[dict[str, Any]]] = {}
    for entry in value["images"]:
        by_name.setdefault(_last(entry["file_name"]), []).append(entry)
    found = [_image_entry(image, by_name.get(_last(image.given), []), path, problems) for image in collection.images]
    known = {class_key(entry["name"]): entry["id"] for entry in value["categories"]}
    used = {thing.label for _, thing in collection.things()}
    for number, name in enumerate(collection.classes):
        if number in used and class_key(name) not in known:
            near = did_you_mean(name, [entry["name"] for entry in value["categories"]])
            problems.append(f"{path}: categories: none is called '{name}'{near} (--classes names those to export)")
    if problems:
        raise DataError(problems)
    numbers = [known.get(class_key(name), -1) for name in collection.classes]
    return _Ids([entry["id"] for entry in found], numbers, found, value["categories"])


def _image_entry(image: Pictured, named: list[dict[str, Any]], path: Path, problems: list[str]) -> dict[str, Any]:
    """Return the entry of an image among those with its last name; note where there is none, or no single one."""
    given = re.sub(r"[\\/]+", "/", image.given)
    whole = [entry for entry in named if f"/{given}".endswith("/" + re.sub(r"[\\/]+", "/", entry["file_name"]))]
    fitting = whole if len(named) > 1 else named
    if len(fitting) != 1:
        problems.append(f"{path}: images: {'no' if not named else 'more than one'} entry for '{image.given}'")
        return {}
    stated = fitting[0].get("height"), fitting[0].get("width")
    if None not in stated and stated != (image.height, image.width):
        size = [image.height, image.width]
        problems.append(f"{path}: images: '{fitting[0]['file_name']}' is {list(stated)} (HxW) there, here {size}")
    return fitting[0]


def _last(name: str) -> str:
    return re.split(r"[\\/]", name)[-1]


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return images and categories of a COCO file. Raises DataError for anything else, by field."""
    try:
        value = json.loads(read_plain_text(path, what="COCO file"))
    except (ValueError, RecursionError) as error:
        where = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{path}{where}: is not JSON") from None
    lists: dict[str, list[dict[str, Any]]] = {}
    for key, name in (("images", "file_name"), ("categories", "name")):
        entries = value.get(key) if isinstance(value, Mapping) else None
        if not isinstance(entries, list):
            raise DataError(f"{path}: {key}: expected a list, as a COCO file has it")
        for number, entry in enumerate(entries):
            if not isinstance(entry, Mapping) or not isinstance(entry.get(name), str) or "id" not in entry:
                raise DataError(f"{path}: {key}[{number}]: expected an object with id and {name}")
        lists[key] = [dict(entry) for entry in entries]
    return lists
