"""One image of a file of boxes: its objects by class, the masks found for them, and the lines to be written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ullava.data.class_names import class_key
from ullava.data.file_names import find_below
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
from ullava.data.readers.coco_classes import has_mask
from ullava.data.readers.record import Record
from ullava.data.store import AnnotationStore
from ullava.geometry import mask_iou, rle_encode
from ullava.media.images import read_image_rgb_u8
from ullava.structures import ImageArray, MaskArray

Cut = Callable[[Path, ImageArray, Sequence[ClassBoxes]], list[MaskArray | None]]
"""Finds the pixels [H, W] of each class in an image; None where it finds nothing."""
_WRITTEN = ("id", "category_id", "bbox", "iscrowd", "segmentation")


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudoJob:
    """What is to be made of what. ``truth`` and ``agree_with``: other COCO files; ``leave_out``: files of images."""

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
        self.names = {int(number): name for number, name in self.store.facts["categories"].items()}
        self.truth = None if job.truth is None else OtherMasks(job.truth)
        self.other = None if job.agree_with is None else OtherMasks(job.agree_with)

    def __call__(self, number: int) -> dict[str, Any]:
        """Return ``{image, annotations, objects, classes}`` of record ``number``; the last two are IoUs with the truth.

        Raises DataError for an image or an annotation that is wrong.
        """
        name = self.store.image_name(number)
        record = Record(self.store.record(number), name, lambda: self.store.where(number))
        path = find_below(self.job.images, record.text("image_path"), "file_name")
        image, size = read_image_rgb_u8(path), record.size_hw()
        if image.shape[:2] != size:
            record.fail(f"{path} has {image.shape[1]} x {image.shape[0]} pixels, the file says {size[1]} x {size[0]}")
        parts = {part.integer("id"): part for part in record.parts("annotations")}
        groups = self._groups(record, parts, size)
        masks: dict[int, MaskArray] = {}
        lines = {
            number: {key: part.value[key] for key in _WRITTEN if key in part.value} for number, part in parts.items()
        }
        asked = [group for group in groups if any(is_large(box, size, self.job.settings) for box in group.boxes)]
        for group, found in zip(asked, self.cut(path, image, asked) if asked else [], strict=True):
            dealt = [None] * len(group.boxes) if found is None else masks_of_boxes(found, group.boxes)
            masks |= self._judged(group, dealt, size, lines, self._known(self.other, name))
        for group in groups:
            for number, box in zip(group.numbers, group.boxes, strict=True):
                if number not in masks and not is_large(box, size, self.job.settings):
                    lines[number] |= {"rejected": TOO_SMALL}
        agreement = self._compared(groups, masks, size, self._known(self.truth, name))
        made = [line | {"image_id": record.integer("image_id")} for line in lines.values()]
        return {"image": name, "annotations": made, "objects": agreement.objects, "classes": agreement.classes}

    def _groups(self, record: Record, parts: dict[int, Record], size: tuple[int, int]) -> list[ClassBoxes]:
        """Return the boxes that have no mask yet, by class; crowd regions stay as they are."""
        named: dict[str, list[int]] = {}
        for number, part in parts.items():
            category = part.integer("category_id")
            if category not in self.names:
                part.fail(f"unknown category_id {category}")
            if part.value.get("iscrowd") != 1 and not has_mask(part):
                named.setdefault(class_key(self.names[category]), []).append(number)
        return [
            ClassBoxes(
                self.names[parts[numbers[0]].integer("category_id")],
                tuple(numbers),
                tuple(parts[number].box_xyxy_px(size) for number in numbers),
            )
            for numbers in named.values()
        ]

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
        truth: ImageMasks | None,
    ) -> Agreement:
        """Hold the masks against the truth: each, and those of a class where none of its large boxes was rejected."""
        agreement = Agreement()
        if truth is None:
            return agreement
        for group in groups:
            pairs = list(zip(group.numbers, group.boxes, strict=True))
            kept = [(masks[number], box) for number, box in pairs if number in masks]
            for mask, box in kept:
                agreement.add_object(mask, truth.mask_of(group.name, box))
            if kept and all(number in masks or not is_large(box, size, self.job.settings) for number, box in pairs):
                agreement.add_class(np.logical_or.reduce([mask for mask, _ in kept]), truth.united(group.name))
        return agreement

    @staticmethod
    def _known(file: OtherMasks | None, name: str) -> ImageMasks | None:
        return None if file is None else file.of_image(name)
