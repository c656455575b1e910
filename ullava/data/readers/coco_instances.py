"""COCO's instances file: every instance of a category, from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ullava.data.annotations.class_names import class_key
from ullava.data.readers.base import Origin, QAPair, Reader, draw, query, training_turns
from ullava.data.readers.record import Record, left_to_right
from ullava.errors import DataError
from ullava.structures import Sample, Task
from ullava.text.phrases import name_fault


class CocoInstancesReader(Reader):
    """An index is an image that has instances; a question asks for all instances of one category in it.

    Categories of one name are one: they would be two truths for one question. Crowd regions (``iscrowd: 1``) are
    nobody's instance: they are no regions of the answer. Queries carry their segmentations, as they were written, in
    ``truth["crowd"]``, for the metric to ignore.
    """

    layout = "coco_instances"
    tasks: ClassVar[tuple[Task, ...]] = ("instance",)
    default_template = "INST.json"
    store_kind = "coco"

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self.categories = {int(number): name for number, name in origin.store.facts["categories"].items()}
        problems = [
            f"{origin.store.source}: category {number}: {name!r:.60} {fault}"
            for number, name in self.categories.items()
            if (fault := name_fault(name))
        ]
        if problems:
            raise DataError(problems)
        first: dict[str, int] = {}
        self.same = {number: first.setdefault(class_key(name), number) for number, name in self.categories.items()}

    def texts(self, value: dict[str, Any]) -> Sequence[str]:
        """Return the names of the categories that are there, as often as each has instances: all are answered."""
        named: dict[int, list[str]] = {}
        for part in value["annotations"]:
            number = self.same[part["category_id"]]
            named.setdefault(number, []).append(self.categories[number])
        return [" ".join(names) for names in named.values()]

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return one image with up to ``turns`` of its categories."""
        record = self.record(index, self.name(index))
        groups = self._groups(record)
        numbers = list(groups)
        chosen = [numbers[place] for place in draw(rng, len(numbers), self.origin.turns)]
        asks = [self._qa_pair(record, number, groups[number]) for number in chosen]
        height, width = record.size_hw()
        truth = {"height": height, "width": width, "image_id": record.integer("image_id")}
        turns = training_turns(asks, self.templates(), rng)
        return Sample(record.sample, self.id, self.task, (self.image(record),), turns, truth)

    def queries(self, index: int) -> list[Sample]:
        """Return one query a category; ``truth`` has ``image_id`` and ``category_id``."""
        record = self.record(index, self.name(index))
        image = self.image(record)
        asks = [self._qa_pair(record, number, parts) for number, parts in self._groups(record).items()]
        return [query(self, f"{record.sample}/{place}", image, ask) for place, ask in enumerate(asks)]

    def _groups(self, record: Record) -> dict[int, list[Record]]:
        """Return the annotations of each category that has at least one instance, by category number."""
        groups = self.all_groups(record)
        return {number: parts for number, parts in groups.items() if not all(map(is_crowd, parts))}

    def all_groups(self, record: Record) -> dict[int, list[Record]]:
        """Return the annotations of each category, by the number of the first one of its name, in order."""
        groups: dict[int, list[Record]] = {}
        for part in record.parts("annotations"):
            number = part.integer("category_id")
            if number not in self.categories:
                part.fail(f"unknown category_id {number} (annotation {part.integer('id')})")
            groups.setdefault(self.same[number], []).append(part)
        return dict(sorted(groups.items()))

    def _qa_pair(self, record: Record, number: int, parts: list[Record]) -> QAPair:
        size, name = record.size_hw(), self.categories[number]
        regions = left_to_right([part.region(name.lower(), size) for part in parts if not is_crowd(part)])
        truth: dict[str, Any] = {"image_id": record.integer("image_id"), "category_id": number, "category": name}
        truth |= {"height": size[0], "width": size[1]}
        crowd = [part.field("segmentation") for part in parts if is_crowd(part)]
        return QAPair(name, regions, truth | ({"crowd": crowd} if crowd else {}))


def is_crowd(part: Record) -> bool:
    """Whether an annotation is a crowd region (``iscrowd: 1``). Raises SampleError for another value than 0 or 1."""
    value = part.value.get("iscrowd", 0)
    if value not in (0, 1):
        part.fail(f"'iscrowd' has to be 0 or 1, not {value!r}")
    return bool(value)
