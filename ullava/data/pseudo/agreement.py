"""Masks of the same objects in two COCO files: which belong together, and how far they agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ullava.data.annotations.class_names import class_key
from ullava.data.annotations.store import AnnotationStore
from ullava.data.readers.coco_classes import has_mask
from ullava.data.readers.record import Record
from ullava.geometry import box_iou, mask_iou
from ullava.structures import BoxXYXY, MaskArray

SAME_BOX = 0.9
"""IoU from which two boxes are of one object: both are the annotators', rounded in different ways."""
ASKED_SHARE = 0.005
"""Least share of the image of a class whose united masks are compared, as questions about classes ask them."""


class OtherMasks:
    """The masks of another file of the same images. Raises DataError where it is missing or no COCO file."""

    def __init__(self, path: Path) -> None:
        self.store = AnnotationStore.open(path, "coco")
        self.names = {int(number): class_key(name) for number, name in self.store.facts["categories"].items()}
        self.places = {self.store.image_name(number): number for number in range(len(self.store))}

    def of_image(self, name: str) -> ImageMasks:
        """Return what the file knows of an image; nothing where it is not in it."""
        if name not in self.places:
            return ImageMasks((0, 0), {})
        number = self.places[name]
        record = Record(self.store.record(number), name, lambda: self.store.where(number))
        groups: dict[str, list[Record]] = {}
        for part in record.parts("annotations"):
            if part.value.get("iscrowd") != 1:
                groups.setdefault(self.names.get(part.integer("category_id"), ""), []).append(part)
        return ImageMasks(record.size_hw(), groups)


@dataclass(slots=True)
class ImageMasks:
    """The annotations of one image by the key of their class; a mask is decoded when it is asked for."""

    size_hw: tuple[int, int]
    groups: dict[str, list[Record]]
    taken: set[int] = field(default_factory=set)

    def mask_of(self, name: str, box: BoxXYXY) -> MaskArray | None:
        """Return the mask of the object of this class and box, each once; None where there is none."""
        parts = [part for part in self.groups.get(class_key(name), ()) if id(part) not in self.taken and has_mask(part)]
        parts = [part for part in parts if "bbox" in part.value]
        if not parts:
            return None
        overlaps = box_iou([part.box_xyxy_px(self.size_hw) for part in parts], [box])[:, 0]
        best = int(np.argmax(overlaps))
        if overlaps[best] < SAME_BOX:
            return None
        self.taken.add(id(parts[best]))
        return parts[best].mask(self.size_hw, may_be_empty=True)


@dataclass(slots=True)
class Agreement:
    """How far the masks that were kept agree with true ones: IoU of objects, and of whole classes of an image."""

    objects: list[float] = field(default_factory=list)
    classes: list[float] = field(default_factory=list)

    def add_object(self, mask: MaskArray, truth: MaskArray | None) -> None:
        """Take one object, if the truth knows it."""
        if truth is not None and truth.any():
            self.objects.append(float(mask_iou(mask, truth)))

    def add_class(self, mask: MaskArray, truth: MaskArray) -> None:
        """Take the united masks of a class, if it covers enough to be asked."""
        if truth.mean() >= ASKED_SHARE:
            self.classes.append(float(mask_iou(mask, truth)))

    def told(self) -> dict[str, Any]:
        """Return counts, and mean IoU in percent."""
        told: dict[str, Any] = {"objects": len(self.objects), "classes": len(self.classes)}
        for name, values in (("object_mIoU", self.objects), ("class_mIoU", self.classes)):
            if values:
                told[name] = round(100 * float(np.mean(values)), 1)
        return told
