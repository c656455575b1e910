"""Expressions with a box each, or with none: ``[{normal_caption, file_name, height, width, solution}]``.

The form of the RefCOCO-S test lists (Yang, 2025, MIT license): ``solution`` is xyxy in pixels, null where the image
shows nothing of the kind. There are no masks; where COCO's ``instances.json`` of the same images lies beside the list
(the companion, which may be absent), an instance whose box is the expression's gives its mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ullava.data.converters.published.source import MAX_PROBLEMS, Converted, OriginalSource, read_json, row
from ullava.errors import DataError, did_you_mean
from ullava.geometry import box_iou

SAME_BOX = 0.99
"""IoU from which an instance's box and an expression's are one box (both are COCO's, rounded differently)."""


def boxed_refs_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``grefer`` record for each expression. Raises DataError with every fault (up to a limit)."""
    entries = read_json(source.annotations)
    if not isinstance(entries, list):
        source.fail(f"a list of expressions is expected, not {type(entries).__name__}")
    masks = _instances(source)
    problems: list[str] = []
    made = []
    for place, entry in enumerate(entries):
        try:
            made.append(_record(source, entry, masks))
        except (KeyError, TypeError, ValueError) as error:
            reason = str(error)
            if isinstance(error, KeyError):
                reason = f"no '{error.args[0]}'{did_you_mean(str(error.args[0]), entry)}"
            problems.append(f"{source.annotations}: entry {place}: {reason}")
    if problems:
        raise DataError(problems[:MAX_PROBLEMS])
    facts["sentences"] = len(made)
    for record in made:
        yield row(record, record["image_path"])


def _record(source: OriginalSource, entry: Any, masks: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise TypeError(f"an object is expected, not {type(entry).__name__}")
    caption, name = entry["normal_caption"], entry["file_name"]
    if not isinstance(caption, str) or not isinstance(name, str) or not caption.strip():
        raise ValueError("'normal_caption' and 'file_name' have to be words")
    box = entry["solution"]
    record: dict[str, Any] = {"image_path": source.image(name), "sentences": [caption.strip()]}
    record |= {"height": entry["height"], "width": entry["width"], "no_target": box is None, "annotations": []}
    if box is None:
        return record
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        raise ValueError(f"'solution' has to be null or four numbers x0, y0, x1, y1, not {box!r}")
    x0, y0, x1, y1 = box
    part = {"bbox": [x0, y0, x1 - x0, y1 - y0], "category": caption.strip().lower(), "box_only": True}
    for instance in masks.get(name, ()):
        left, top, width, height = instance["bbox"]
        if float(box_iou([(left, top, left + width, top + height)], [tuple(box)])[0, 0]) > SAME_BOX:
            part |= {"segmentation": instance["segmentation"], "box_only": False}
            break
    record["annotations"] = [part]
    return record


def _instances(source: OriginalSource) -> dict[str, list[dict[str, Any]]]:
    """Return COCO's single objects by the name of their image; empty without the companion."""
    if source.companion is None or not source.companion.is_file():
        return {}
    content = read_json(source.companion)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise DataError(f"{source.companion}: no COCO instances (an object with images and annotations)")
    names = {image["id"]: image["file_name"] for image in content["images"]}
    found: dict[str, list[dict[str, Any]]] = {}
    for instance in content["annotations"]:
        if not instance.get("iscrowd") and instance["image_id"] in names:
            found.setdefault(names[instance["image_id"]], []).append(instance)
    return found
