"""Referring expressions: one object a record (``refer``), or a group of objects or none (``grefer``)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ullava.data.annotations.text_lengths import RecordLengths
from ullava.data.readers.base import Origin, QAPair, Reader, draw, query, training_turns
from ullava.data.readers.record import Record, left_to_right
from ullava.errors import did_you_mean
from ullava.structures import Region, Sample


class ExpressionReader(Reader):
    """Records with expressions in ``sentences``. ``by_image``: an index is an image, its records taken together."""

    tasks = ("res", "rec")
    default_template = "SEG.json"
    grouped = True

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self._images = origin.store.groups(origin.limit) if origin.by_image else None

    def __len__(self) -> int:
        """Return the number of records, or of images."""
        return self._count if self._images is None else len(self._images[1]) - 1

    def sources(self, index: int) -> str:
        """Return where the record is, or the records of this image are."""
        return "; ".join(self.origin.store.where(number) for number in self._numbers(index))

    def texts(self, value: dict[str, Any]) -> Sequence[str]:
        """Return the expressions."""
        return list(value["sentences"])

    def record_lengths(self) -> RecordLengths:
        """Return what records, or images, show and say."""
        sizes = super().record_lengths()
        return sizes if self._images is None else sizes.grouped(*self._images)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return one image with up to ``turns`` questions.

        Of one record: different expressions of it. Of an image: one expression each of different records.
        """
        name, numbers = self.name(index), self._numbers(index)
        if self._images is None:
            record = self.record(numbers[0], name)
            sentences = record.expressions("sentences")
            places = draw(rng, len(sentences), self.origin.turns)
            asks = self._qa_pairs(record, [sentences[place] for place in places])
        else:
            asks = []
            for place in draw(rng, len(numbers), self.origin.turns):
                record = self.record(numbers[place], name)
                sentences = record.expressions("sentences")
                asks += self._qa_pairs(record, [sentences[int(rng.integers(len(sentences)))]])
        image, truth = self.image(record), self._size(record)
        turns = training_turns(asks, self.templates(), rng)
        return Sample(name, self.id, self.task, (image,), turns, truth)

    def queries(self, index: int) -> list[Sample]:
        """Return one query for each expression of the record, or of the image's records."""
        name = self.name(index)
        found: list[tuple[Path, QAPair]] = []
        for number in self._numbers(index):
            record = self.record(number, name)
            image = self.image(record)
            found += [(image, ask) for ask in self._qa_pairs(record, record.expressions("sentences"))]
        return [query(self, f"{name}/{place}", image, ask) for place, (image, ask) in enumerate(found)]

    @abstractmethod
    def _regions(self, record: Record) -> tuple[Region, ...]:
        """Return what the expressions of the record mean; nothing if it is not in the image."""

    def _qa_pairs(self, record: Record, sentences: list[str]) -> list[QAPair]:
        regions, truth = self._regions(record), self._size(record) | self._ignored(record) | self._sorted_into(record)
        asks = [
            QAPair(sentence, regions, truth | {"expression": sentence}, absent="" if regions else sentence)
            for sentence in sentences
        ]
        return asks if regions else [self.answered_absent(ask, record.size_hw()) for ask in asks]

    def _category(self, record: Record) -> str:
        category = record.expression("category").lower()
        if self.origin.classes and category not in self.origin.classes:
            record.fail(f"unknown category '{category}'{did_you_mean(category, self.origin.classes)}")
        return category

    def _numbers(self, index: int) -> list[int]:
        if self._images is None:
            return [index]
        order, starts = self._images
        numbers: list[int] = order[starts[index] : starts[index + 1]].tolist()
        return numbers

    @staticmethod
    def _ignored(record: Record) -> dict[str, object]:
        """Return the pixels that count for neither side (ReasonSeg has them)."""
        if "ignore" not in record.value:
            return {}
        about = {key: record.value.get(key) for key in ("height", "width")} | {"segmentation": record.value["ignore"]}
        return {"ignore_mask": record.part(about, "ignore").mask(record.size_hw())}

    @staticmethod
    def _sorted_into(record: Record) -> dict[str, object]:
        """Return the parts of the data set that hold the record, what its figures are averaged over, others' masks."""
        said: dict[str, object] = {}
        if "groups" in record.value:
            said["groups"] = tuple(record.texts("groups"))
        if "average_over" in record.value:
            said["average_over"] = record.text("average_over")
        if "alternatives" in record.value:
            said["alternatives"] = tuple(
                tuple(record.part(thing, f"alternatives[{place}]").mask(record.size_hw()) for thing in things)
                for place, things in enumerate(record.items("alternatives"))
            )
        return said

    @staticmethod
    def _size(record: Record) -> dict[str, object]:
        height, width = record.size_hw()
        return {"height": height, "width": width}


class ReferReader(ExpressionReader):
    """``{image_path, segmentation, category, bbox, sentences, height, width}``: one object, its expressions.

    For the task ``rec`` a record may lack ``segmentation``. ``ignore``, in the same forms, are pixels that count for
    neither side. ``groups`` (names) are the parts of the data set that figures are told for one by one;
    ``average_over`` is the class of which accuracy is averaged over all classes.
    """

    layout = "refer"
    points = True

    def _regions(self, record: Record) -> tuple[Region, ...]:
        category = self._category(record)
        return (record.region(category, record.size_hw(), mask_needed=self.task != "rec"),)


class GroupReferReader(ExpressionReader):
    """``{image_path, height, width, sentences, no_target, annotations: [{segmentation, bbox, category}]}``.

    An annotation with ``box_only`` has no ``segmentation``, whatever the task. ``groups`` as in ``refer``.
    ``alternatives``: lists of annotations, what others than the first annotator found.
    """

    layout = "grefer"
    speaks_of_absent = True

    @property
    def may_lack_targets(self) -> bool:
        """Any number of targets, none too."""
        return True

    def texts(self, value: dict[str, Any]) -> Sequence[str]:
        """Return each expression with the names of what it means."""
        names = " ".join(part["category"] for part in value["annotations"])
        return [f"{sentence} {names}" for sentence in value["sentences"]]

    def _regions(self, record: Record) -> tuple[Region, ...]:
        parts = record.parts("annotations")
        no_target = record.flag("no_target", default=not parts)
        if no_target and parts:
            record.fail(f"'no_target' is true, but there are {len(parts)} annotations")
        if not no_target and not parts:
            record.fail("no annotations, but 'no_target' is not true")
        size = record.size_hw()
        return left_to_right([part.region(self._category(part), size, self._masked(part)) for part in parts])

    def _masked(self, part: Record) -> bool:
        return self.task != "rec" and not part.flag("box_only", default=False)
