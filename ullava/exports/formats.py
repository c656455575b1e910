"""The table of file formats, and the one way from a results folder to the files of any of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ullava.atomic_write import check_folder, whole_folder
from ullava.errors import UserError, did_you_mean
from ullava.exports.coco import POLYGONS, RLE, write_coco, write_coco_results
from ullava.exports.collection import Choice, Collection, gather
from ullava.exports.cvat import write_cvat
from ullava.exports.fiftyone_files import write_fiftyone
from ullava.exports.label_studio import write_label_studio
from ullava.exports.labelme import MASKS, write_labelme
from ullava.exports.labelme import POLYGONS as LABELME_POLYGONS
from ullava.exports.mask_images import OBJECTS, PALETTE_FORM, write_masks
from ullava.exports.prediction_lines import write_prediction_lines
from ullava.exports.results import read_results
from ullava.exports.settings import LOCAL_FILES, Settings
from ullava.exports.yolo import write_yolo

Writer = Callable[[Collection, Path, Settings], list[str]]
"""Writes the files of a format into an empty folder; returns sentences about what they lose."""


@dataclass(frozen=True, slots=True)
class Format:
    """One format: its writer, its forms (the first is the default), and which settings beyond the form it takes."""

    write: Writer
    forms: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


FORMATS: Mapping[str, Format] = {
    "coco": Format(write_coco, (POLYGONS, RLE), ("ids",)),
    "coco-results": Format(write_coco_results, (), ("ids",)),
    "labelme": Format(write_labelme, (LABELME_POLYGONS, MASKS), ("link",)),
    "yolo-seg": Format(write_yolo, (), ("link",)),
    "masks": Format(write_masks, (OBJECTS, PALETTE_FORM)),
    "cvat": Format(write_cvat),
    "label-studio": Format(write_label_studio, (), ("image_url",)),
    "fiftyone": Format(write_fiftyone, (), ("link",)),
    "jsonl": Format(write_prediction_lines),
}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: how many images, objects and classes, and sentences about what is missing in the files."""

    folder: Path
    images: int
    objects: int
    classes: int
    notes: tuple[str, ...]


def export_results(results: Path, to: str, out: Path, choice: Choice, settings: Settings) -> Exported:
    """Write the answers of ``results`` (see ``read_results``) in the format ``to`` into the new folder ``out``.

    Raises:
        UserError: a format, form or setting that does not exist, ``out`` holds something; DataError as
            ``read_results`` and ``gather``. Nothing is written then.
    """
    format_, settings = checked(to, settings)
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: is there already; give another --out")
    check_folder(out)
    collection = gather(read_results(results), choice)
    if not collection.images:
        raise UserError(f"{results}: none of the answers is about an image; there is nothing to export")
    with whole_folder(out) as draft:
        notes = format_.write(collection, draft, settings)
    objects = len(collection.things())
    return Exported(out, len(collection.images), objects, len(collection.classes), tuple([*collection.notes, *notes]))


def checked(to: str, settings: Settings) -> tuple[Format, Settings]:
    """Return a format and the settings with its form filled in. Raises UserError for what it does not have."""
    if to not in FORMATS:
        raise UserError(f"--to: unknown format '{to}'{did_you_mean(to, FORMATS)}")
    format_ = FORMATS[to]
    if settings.form and not format_.forms:
        raise UserError(f"--form {settings.form}: {to} has one form only")
    if settings.form and settings.form not in format_.forms:
        raise UserError(f"--form: {to} has no form '{settings.form}'{did_you_mean(settings.form, format_.forms)}")
    given = {"ids": settings.ids is not None, "link": settings.link, "image_url": settings.image_url != LOCAL_FILES}
    for key, is_given in given.items():
        if is_given and key not in format_.takes:
            takers = " and ".join(name for name, other in FORMATS.items() if key in other.takes)
            raise UserError(f"--{key.replace('_', '-')}: has no meaning for {to}; it is for {takers}")
    return format_, replace(settings, form=settings.form or (format_.forms or ("",))[0])
