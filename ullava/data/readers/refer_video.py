"""Referring expressions of clips: masks of objects through time, and the expressions that mean them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ullava.data.readers.base import Reader, clip_sampling, draw
from ullava.data.readers.record import Record
from ullava.errors import did_you_mean
from ullava.geometry import SegmentationError, VideoMasks, united
from ullava.structures import Clip, Region, Sample, Turn
from ullava.text.answers import grounded_answer, no_target_answer
from ullava.text.tokens import IMAGE_MARKER, VIDEO_MARKER


class ReferVideoReader(Reader):
    """A record is a clip with all its expressions: ``{video, name?, frames, height, width, objects: {number: masks},
    names?, ignore?, expressions: [{id, expression, objects: [number], groups?, average_over?}]}``.

    ``video`` is a folder of JPEG frames below the folder of the images, ``frames`` their names in order, ``name`` what
    the clip is called in results (without it, ``video``). Masks are ``VideoMasks`` as JSON, one entry for each frame.
    An expression with no ``objects`` means nothing in the clip; without the key it is not published what it means, and
    no figure counts it. ``names`` {number: text}: what objects are called; an expression all of whose objects have a
    name is answered with a mask for each of them by its name, any other with one mask of all of them by its own words.
    ``ignore``: pixels that count for neither side. ``groups`` and ``average_over`` as in ``refer``.

    The ``truth`` of a query has ``masks`` (united; None where it is not published), ``ignore_masks``, and what an
    answer is filed under: ``video``, ``expression_id`` and ``frames`` (names without suffix).
    """

    layout = "refer_video"
    tasks = ("rvos",)
    default_template = "SEG.json"

    @property
    def may_lack_targets(self) -> bool:
        """An expression may mean nothing in the clip."""
        return True

    def texts(self, value: dict[str, Any]) -> Sequence[str]:
        """Return the expressions."""
        return [one["expression"] for one in value["expressions"]]

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return the clip with up to ``turns`` of its expressions, worded by drawn templates."""
        record = self.record(index, self.name(index))
        clip, objects = self._clip(record, rng), self._objects(record)
        parts = self._expressions(record)
        turns: list[Turn] = []
        for place in draw(rng, len(parts), self.origin.turns):
            part = parts[place]
            masks = self._masks(part, objects, record)
            if masks is None:
                part.fail("what it means is not published, so nothing can be learned from it")
            question = self._question(part, self.templates().pick(rng))
            named = self._named(part, objects, record)
            asked = question.replace(VIDEO_MARKER, "").lstrip() if turns else question
            turns.append(self._turn(part, asked, masks, named))
        return Sample(record.sample, self.id, self.task, (), tuple(turns), self._size(record), videos=(clip,))

    def queries(self, index: int) -> list[Sample]:
        """Return one query for each expression of the clip."""
        record = self.record(index, self.name(index))
        clip, objects = self._clip(record), self._objects(record)
        about = self._size(record) | {
            "video": record.text("name") if "name" in record.value else record.text("video"),
            "frames": tuple(name.rpartition(".")[0] for name in record.texts("frames")),
            "ignore_masks": self._masks_of(record, "ignore") if "ignore" in record.value else None,
        }
        return [
            self._query(
                f"{record.sample}/{place}",
                clip,
                part,
                self._masks(part, objects, record),
                self._named(part, objects, record),
                about,
            )
            for place, part in enumerate(self._expressions(record))
        ]

    def _query(
        self,
        name: str,
        clip: Clip,
        part: Record,
        masks: VideoMasks | None,
        named: tuple[Region, ...],
        about: dict[str, object],
    ) -> Sample:
        truth = about | {"expression": part.expression("expression"), "expression_id": part.text("id"), "masks": masks}
        if "groups" in part.value:
            truth["groups"] = tuple(part.texts("groups"))
        if "average_over" in part.value:
            truth["average_over"] = part.text("average_over")
        turn = self._turn(part, self._question(part, self.templates().first), masks, named)
        return Sample(name, self.id, self.task, (), (turn,), truth, videos=(clip,))

    def _question(self, part: Record, template: str) -> str:
        """Word an expression; ``<image>`` of a template stands for the clip."""
        return self.templates().fill(template, part.expression("expression")).replace(IMAGE_MARKER, VIDEO_MARKER)

    @staticmethod
    def _turn(part: Record, question: str, masks: VideoMasks | None, named: tuple[Region, ...]) -> Turn:
        """Return question and answer; the answer is empty where it is not published."""
        words = part.expression("expression")
        if masks is None:
            return Turn(question, "")
        if masks.is_absent:
            return Turn(question, no_target_answer(words))
        regions = named or (Region(words, video_masks=masks),)
        return Turn(question, grounded_answer(regions), regions)

    def _clip(self, record: Record, rng: np.random.Generator | None = None) -> Clip:
        """Return the clip; ``rng`` draws the frames of training, without it they are at equal steps."""
        path, length = self.image(record, "video"), len(record.texts("frames"))
        return Clip(path, *clip_sampling(self.origin.frames, rng), length)

    @staticmethod
    def _size(record: Record) -> dict[str, object]:
        height, width = record.size_hw()
        return {"height": height, "width": width}

    def _expressions(self, record: Record) -> list[Record]:
        parts = record.parts("expressions")
        if not parts:
            record.fail("no expression")
        return parts

    def _objects(self, record: Record) -> dict[str, VideoMasks] | None:
        """Return the masks of each object; None where none are published."""
        if "objects" not in record.value:
            return None
        objects = record.part(record.field("objects"), "objects")
        return {number: self._masks_of(objects, number, record) for number in objects.value}

    @staticmethod
    def _masks_of(holder: Record, key: str, record: Record | None = None) -> VideoMasks:
        record = record or holder
        try:
            masks = VideoMasks.from_json(holder.field(key))
        except SegmentationError as error:
            holder.fail(f"'{key}': {error}")
        frames = len(record.items("frames"))
        if (masks.size_hw, len(masks)) != (record.size_hw(), frames):
            height, width = masks.size_hw
            told = f"{len(masks)} masks of {width} x {height} pixels"
            holder.fail(
                f"'{key}': {told}, the clip has {frames} frames of {record.size_hw()[1]} x {record.size_hw()[0]}"
            )
        return masks

    @staticmethod
    def _named(part: Record, objects: dict[str, VideoMasks] | None, like: Record) -> tuple[Region, ...]:
        """Return what an expression of the clip ``like`` means by names, each by itself; none where one has no name."""
        if objects is None or "objects" not in part.value or "names" not in like.value:
            return ()
        names = like.part(like.field("names"), "names")
        numbers = part.items("objects")
        if not all(number in names.value for number in numbers):
            return ()
        there = (number for number in numbers if not objects[number].is_absent)
        return tuple(Region(names.name(number), video_masks=objects[number]) for number in there)

    @staticmethod
    def _masks(part: Record, objects: dict[str, VideoMasks] | None, like: Record) -> VideoMasks | None:
        """Return the united masks of what an expression of the clip ``like`` means; None where it is not published."""
        if objects is None or "objects" not in part.value:
            return None
        numbers, size_hw, frames = part.items("objects"), like.size_hw(), len(like.items("frames"))
        for number in numbers:
            if number not in objects:
                part.fail(f"'objects' names '{number}', which the clip has not{did_you_mean(str(number), objects)}")
        if numbers:
            return united([objects[number] for number in numbers])
        unseen = frozenset[int]().union(*(one.unannotated for one in objects.values()))
        return VideoMasks.from_rles([None] * frames, size_hw, unseen)
