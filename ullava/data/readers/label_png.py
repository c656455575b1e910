"""Semantic classes, as in ADE20K and COCO-Stuff: ``{image_path, label_path, classes: [{class, class_id}]}``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ullava.data.readers.base import QAPair, Reader, draw, query, training_turns
from ullava.data.readers.record import Record
from ullava.errors import DataError, did_you_mean
from ullava.geometry import mask_to_box_xyxy_px
from ullava.media.images import read_label_png
from ullava.structures import MaskArray, Region, Sample, Task


class LabelPngReader(Reader):
    """One question a class; its mask is every pixel of that class, its box is the mask's."""

    layout = "label_png"
    tasks: ClassVar[tuple[Task, ...]] = ("semantic",)
    default_template = "CLS.json"

    def texts(self, value: dict[str, Any]) -> Sequence[str]:
        """Return the classes' names."""
        return list({part["class"].lower(): part["class"] for part in value["classes"]}.values())

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return one image with up to ``turns`` of its classes."""
        record = self.record(index, self.name(index))
        classes, labels = self.classes(record), self.labels(record)
        chosen = [classes[place] for place in draw(rng, len(classes), self.origin.turns)]
        asks = [self.ask(record, name, (number,), labels) for name, number in chosen]
        height, width = labels.shape
        truth = {"height": height, "width": width}
        turns = training_turns(asks, self.templates(), rng)
        return Sample(record.sample, self.id, self.task, (self.image(record),), turns, truth)

    def queries(self, index: int) -> list[Sample]:
        """Return one query a class; ``truth`` has ``class``, ``class_id``, and ``ignore_mask`` with an ignore label."""
        record = self.record(index, self.name(index))
        image, labels = self.image(record), self.labels(record)
        asks = [self.ask(record, name, (number,), labels) for name, number in self.classes(record)]
        return [query(self, f"{record.sample}/{place}", image, ask) for place, ask in enumerate(asks)]

    def classes(self, record: Record) -> list[tuple[str, int]]:
        """Return name and number of the classes that a record lists, each once."""
        listed = [(part.name("class"), part.integer("class_id")) for part in record.parts("classes")]
        # u-LLaVA's files say some classes twice, in other capitals: one thing, one question.
        classes = list({(name.lower(), number): (name, number) for name, number in reversed(listed)}.values())[::-1]
        if not classes:
            record.fail("'classes' is empty: there is nothing to ask")
        for name, _ in classes:
            if self.origin.classes and name.lower() not in self.origin.classes:
                record.fail(f"unknown class '{name}'{did_you_mean(name.lower(), self.origin.classes)}")
        numbers = [number for _, number in classes]
        if len(set(numbers)) < len(numbers):
            record.fail(f"a class_id is there twice: {numbers}")
        return classes

    def labels(self, record: Record) -> NDArray[np.int32]:
        """Read the label image as it is stored, int32 [H, W]."""
        try:
            labels = read_label_png(self.image(record, "label_path"))
        except DataError as error:
            record.fail(str(error))
        record.check_size(labels.shape, "the label image")
        return labels

    def pixels(self, record: Record, name: str, numbers: Sequence[int], labels: NDArray[np.int32]) -> MaskArray:
        """Return where a class is, [H, W]. Raises SampleError for the number of pixels to ignore."""
        for number in numbers:
            if number - self.origin.label_offset == self.origin.ignore_label:
                record.fail(f"class '{name}' ({number}) has the number of pixels to ignore")
        masks = [labels == number - self.origin.label_offset for number in numbers]
        return masks[0] if len(masks) == 1 else np.logical_or.reduce(masks)

    def ask(self, record: Record, name: str, numbers: Sequence[int], labels: NDArray[np.int32]) -> QAPair:
        """Return the question about the class ``name``, which has one number, or several that are all of it."""
        mask, number = self.pixels(record, name, numbers, labels), numbers[0]
        box = mask_to_box_xyxy_px(mask)
        if box is None:
            record.fail(f"class '{name}' ({number}) has no pixel in {record.text('label_path')}")
        height, width = mask.shape
        truth = {"class": name, "class_id": number, "height": height, "width": width}
        if self.origin.ignore_label is not None:
            truth["ignore_mask"] = labels == self.origin.ignore_label
        return QAPair(name, (Region(name.lower(), mask, box),), truth)
