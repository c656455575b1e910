"""COCO's form as people have it: ids of any kind, sizes that are missing, entries that belong to nothing.

Stricter than this is ``ullava.data.annotations.coco_rows``, which reads the files that a dataset folder or a published
set holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ullava.data.annotations.encodings import UTF_8
from ullava.data.annotations.json_stream import JsonRecord, iter_object_lists
from ullava.data.converters.imported.items import Faults, shown
from ullava.errors import DataError, did_you_mean
from ullava.given_files import check_plain
from ullava.text.phrases import name_fault

_KEPT = ("segmentation", "bbox", "area", "iscrowd")
_OTHER_FORMS = {
    "segments_info": "a panoptic file: its masks are PNGs; take the instances file, or 'ullava data import masks'",
    "caption": "a file of captions, which have no place in the image; take the instances file",
}


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An entry of ``images``. ``height`` and ``width`` are as written; ``where`` is file and line."""

    id: str
    name: str
    height: Any
    width: Any
    where: str


@dataclass(frozen=True, slots=True)
class ListedAnnotation:
    """An entry of ``annotations``. ``label`` is what messages call it; ``value`` holds what an import reads of it."""

    id: str | None
    image_id: str
    category_id: Any
    label: str
    where: str
    value: dict[str, Any]


@dataclass(slots=True)
class CocoFile:
    """What a file lists. ``images`` and ``categories`` are by id; an id that is there twice has several entries."""

    path: Path
    images: dict[str, list[ListedImage]] = field(default_factory=dict)
    annotations: list[ListedAnnotation] = field(default_factory=list)
    categories: dict[str, list[str]] = field(default_factory=dict)

    def category(self, annotation: ListedAnnotation) -> str:
        """Return the name of an annotation's category; DataError for one that is not listed, or listed as two."""
        names = self.categories.get(id_of(annotation.category_id) or "", [])
        if not names:
            known = did_you_mean(str(annotation.category_id), self.categories)
            raise DataError(f"unknown category_id {annotation.category_id}{known}")
        if len(set(names)) > 1:
            raise DataError(f"category_id {annotation.category_id} is {' and '.join(map(repr, names))}")
        return names[0]


def id_of(value: Any) -> str | None:
    """Return an id in the one form in which 7, 7.0 and "7" are equal; None for what is no id."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        value = int(value) if value.is_integer() else value
    number = str(value).strip()
    return number if number and _is_unicode(number) else None


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def read_coco_file(
    path: Path,
    faults: Faults,
    wanted: Callable[[str | None], bool] = lambda annotation_id: True,
    encoding: str = UTF_8,
) -> CocoFile:
    """Read the lists of a file; of the annotations those whose id is ``wanted``.

    Faults: an image without id or name, an annotation without ``image_id``, a category without id or name. Raises
    DataError for a file that is missing, cut off, or of another form (panoptic, captions).
    """
    check_plain(path, what="annotation file")
    found = CocoFile(path)
    for key, record in iter_object_lists(path, ("images", "annotations", "categories"), encoding=encoding):
        _check_form(path, key, record)
        with faults.noting(f"{path}:{record.line}: {key}[{record.number}]"):
            if key == "annotations":
                annotation = _annotation(path, record)
                if wanted(annotation.id):
                    found.annotations.append(annotation)
                continue
            number = _id(record, "id")
            if key == "images":
                image = _image(path, record, number)
                found.images.setdefault(number, []).append(image)
            else:
                name = _text(record, "name").strip()
                fault = name_fault(name)
                if fault:
                    raise DataError(f"'name' {name!r:.60} {fault}")
                found.categories.setdefault(number, []).append(name)
    if found.annotations and not found.categories:
        unusable = [str(fault) for fault in faults.found if ": categories[" in fault.name]
        if unusable:
            raise DataError([*shown(unusable), f"{path}: no category is usable; nothing was written"])
        raise DataError(f"{path}: 'categories' is empty: no annotation has a name")
    return found


def _image(path: Path, record: JsonRecord, number: str) -> ListedImage:
    value = record.value
    url = value.get("coco_url")
    if "file_name" not in value and isinstance(url, str) and url.count("/") >= 2:
        name = "/".join(url.rsplit("/", 2)[1:])  # LVIS names its images so: folder and file
    else:
        name = _text(record, "file_name")
    return ListedImage(number, name, value.get("height"), value.get("width"), f"{path}:{record.line}")


def _annotation(path: Path, record: JsonRecord) -> ListedAnnotation:
    value = record.value
    number = id_of(value.get("id"))
    label = f"annotations[{record.number}]" if number is None else f"annotation {number}"
    return ListedAnnotation(
        number,
        _id(record, "image_id"),
        value.get("category_id"),
        label,
        f"{path}:{record.line}",
        {key: value[key] for key in _KEPT if key in value},
    )


def _check_form(path: Path, key: str, record: JsonRecord) -> None:
    for sign, form in _OTHER_FORMS.items():
        if key == "annotations" and sign in record.value and "category_id" not in record.value:
            raise DataError(f"{path}: {form}")


def _id(record: JsonRecord, key: str) -> str:
    number = id_of(record.value.get(key))
    if number is not None:
        return number
    if key not in record.value:
        raise DataError(f"no '{key}'{did_you_mean(key, record.value)}")
    raise DataError(f"'{key}' has to be a number or text, not {record.value[key]!r:.40}")


def _text(record: JsonRecord, key: str) -> str:
    value = record.value.get(key)
    if isinstance(value, str) and value.strip():
        return value
    if key not in record.value:
        raise DataError(f"no '{key}'{did_you_mean(key, record.value)}")
    raise DataError(f"'{key}' has to be text that is not blank, not {value!r:.40}")
