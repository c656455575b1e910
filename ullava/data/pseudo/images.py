"""One image of a file of boxes: its objects by class, the masks found for them, and the lines to be written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ullava.data.annotations.class_names import class_key
from ullava.data.annotations.file_names import find_below
from ullava.data.annotations.store import AnnotationStore
from ullava.data.pseudo.agreement import Agreement, ImageMasks, OtherMasks
from ullava.data.pseudo.objects import (
    DISAGREES,
    TOO_SMALL,
    UNMATCHED,
    ClassBoxes,
    fault_of_mask,
    is_large,
    masks_of_boxes,
)
from ullava.data.pseudo.settings import PseudoSettings
from ullava.data.readers.coco_classes import has_mask, is_flat
from ullava.data.readers.record import Record
from ullava.geometry import mask_iou, rle_encode
from ullava.media.images import read_image_rgb_u8
from ullava.structures import ImageArray, MaskArray

Cut = Callable[[Path, ImageArray, Sequence[ClassBoxes]], list[MaskArray | None]]
"""Finds the pixels [H, W] of each class in an image; None where it finds nothing."""
_WRITTEN = ("id", "category_id", "bbox", "iscrowd", "segmentation")


class Item(NamedTuple):
    """An image to be cut: record ``number`` of the file of boxes, or of the truth."""

    of_truth: bool
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudoJob:
    """What is to be made of what.

    ``truth``: a COCO file with masks, whose objects are cut from their boxes too and compared; they are not written.
    ``agree_with``: one with masks of the same objects from another source. Images of ``leave_out`` are passed over.
    """

    boxes: Path
    images: Path
    out: Path
    settings: PseudoSettings = field(default_factory=PseudoSettings)
    truth: Path | None = None
    agree_with: Path | None = None
    leave_out: tuple[Path, ...] = ()


class ImageCutter:
    """Makes the annotations of one image after the other. Opens the files of a job, once for each process."""

    def __init__(self, job: PseudoJob, cut: Cut) -> None:
        self.job = job
        self.cut = cut
        self.store = AnnotationStore.open(job.boxes, "coco")
        self.names = _category_names(self.store)
        self.truth = None if job.truth is None else AnnotationStore.open(job.truth, "coco")
        self.true_names = {} if self.truth is None else _category_names(self.truth)
        self.other = None if job.agree_with is None else OtherMasks(job.agree_with)

    def items(self, left_out: Collection[str]) -> list[Item]:
        """Return what there is to do: the images of the boxes, then those of the truth."""
        boxes = [number for number in range(len(self.store)) if self.store.image_name(number) not in left_out]
        known = range(0 if self.truth is None else len(self.truth))
        return [*(Item(False, number) for number in boxes), *(Item(True, number) for number in known)]

    def __call__(self, item: Item) -> dict[str, Any]:
        """Return ``{image, annotations, objects, classes}`` of an image.

        Of an image of the truth there are no ``annotations`` but the IoUs of its objects and classes with what was cut.
        Raises DataError for an image or an annotation that is wrong.
        """
        store, names = self.store, self.names
        if item.of_truth and self.truth is not None:
            store, names = self.truth, self.true_names
        name = store.image_name(item.number)
        record = Record(store.record(item.number), name, lambda: store.where(item.number))
        path = find_below(self.job.images, record.text("image_path"), "file_name")
        image, size = read_image_rgb_u8(path), record.size_hw()
        if image.shape[:2] != size:
            record.fail(f"{path} has {image.shape[1]} x {image.shape[0]} pixels, the file says {size[1]} x {size[0]}")
        parts = {part.integer("id"): part for part in record.parts("annotations")}
        groups = _groups(parts, names, size, masked=item.of_truth)
        masks: dict[int, MaskArray] = {}
        lines = {
            number: {key: part.value[key] for key in _WRITTEN if key in part.value} for number, part in parts.items()
        }
        other = None if self.other is None or item.of_truth else self.other.of_image(name)
        asked = [group for group in groups if any(is_large(box, size, self.job.settings) for box in group.boxes)]
        for group, found in zip(asked, self.cut(path, image, asked) if asked else [], strict=True):
            dealt = [None] * len(group.boxes) if found is None else masks_of_boxes(found, group.boxes)
            masks |= self._judged(group, dealt, size, lines, other)
        if item.of_truth:
            truths = {number: part.mask(size, may_be_empty=True) for number, part in parts.items() if has_mask(part)}
            agreement = self._compared(groups, masks, size, truths)
            return {"image": name, "annotations": [], "objects": agreement.objects, "classes": agreement.classes}
        large = {
            number
            for group in groups
            for number, box in zip(group.numbers, group.boxes, strict=True)
            if is_large(box, size, self.job.settings)
        }
        for number, part in parts.items():
            if number not in large and part.value.get("iscrowd") != 1 and not has_mask(part):
                lines[number] |= {"rejected": TOO_SMALL}
        made = [line | {"image_id": record.integer("image_id")} for line in lines.values()]
        return {"image": name, "annotations": made, "objects": [], "classes": []}

    def _judged(
        self,
        group: ClassBoxes,
        dealt: Sequence[MaskArray | None],
        size: tuple[int, int],
        lines: dict[int, dict[str, Any]],
        other: ImageMasks | None,
    ) -> dict[int, MaskArray]:
        """Write what came of each box of a class into ``lines``; return the masks that are kept."""
        settings = self.job.settings
        kept: dict[int, MaskArray] = {}
        for number, box, mask in zip(group.numbers, group.boxes, dealt, strict=True):
            if not is_large(box, size, settings):
                continue
            fault = fault_of_mask(mask, box, settings)
            if not fault and mask is not None and other is not None:
                second = other.mask_of(group.name, box)
                share = None if second is None else round(float(mask_iou(mask, second)), 3)
                lines[number] |= {} if share is None else {"agreement": share}
                fault = UNMATCHED if share is None else (DISAGREES if share < settings.min_iou else "")
            if fault or mask is None:
                lines[number] |= {"rejected": fault}
            else:
                kept[number] = mask
                code, area = dict(rle_encode(mask)), int(np.count_nonzero(mask))
                lines[number] |= {"segmentation": code, "area": area, "source": settings.source}
        return kept

    def _compared(
        self,
        groups: Sequence[ClassBoxes],
        masks: dict[int, MaskArray],
        size: tuple[int, int],
        truths: dict[int, MaskArray],
    ) -> Agreement:
        """Hold masks against true ones: each, and those of a class together where no large box of it was rejected."""
        agreement = Agreement()
        for group in groups:
            pairs = list(zip(group.numbers, group.boxes, strict=True))
            kept = [number for number, _ in pairs if number in masks]
            for number in kept:
                agreement.add_object(masks[number], truths.get(number))
            if kept and all(number in masks or not is_large(box, size, self.job.settings) for number, box in pairs):
                if all(number in truths for number in group.numbers):
                    united = np.logical_or.reduce([masks[number] for number in kept])
                    agreement.add_class(united, np.logical_or.reduce([truths[number] for number in group.numbers]))
        return agreement


def _category_names(store: AnnotationStore) -> dict[int, str]:
    """Return the categories of a COCO file: number -> name."""
    return {int(number): str(name) for number, name in store.facts["categories"].items()}


def _groups(parts: dict[int, Record], names: dict[int, str], size: tuple[int, int], masked: bool) -> list[ClassBoxes]:
    """Return the boxes by class, without crowd regions and flat boxes; those that have a mask too where ``masked``."""
    named: dict[str, list[int]] = {}
    for number, part in parts.items():
        category = part.integer("category_id")
        if category not in names:
            part.fail(f"unknown category_id {category}")
        if part.value.get("iscrowd") != 1 and not is_flat(part) and (masked or not has_mask(part)):
            named.setdefault(class_key(names[category]), []).append(number)
    return [
        ClassBoxes(
            names[parts[numbers[0]].integer("category_id")],
            tuple(numbers),
            tuple(parts[number].box_xyxy_px(size) for number in numbers),
        )
        for numbers in named.values()
    ]
