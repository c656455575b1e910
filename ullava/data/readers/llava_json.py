"""Conversations in words: ``{id, image?, video?, conversations: [{from: human|gpt, value}]}``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ullava.data.annotations.text_lengths import VIDEO_KEYS
from ullava.data.readers.base import Reader, clip_sampling, draw
from ullava.data.readers.record import Record
from ullava.errors import DataError, did_you_mean
from ullava.geometry.region_prompts import as_region, region_inside, shared_out
from ullava.structures import Clip, Region, RegionPrompt, Sample, Turn
from ullava.text.phrases import turn_fault
from ullava.text.tokens import IMAGE_MARKER, REGION_MARKER, VIDEO_MARKER, mark_places

SPEAKERS = ("human", "gpt")


class LlavaJsonReader(Reader):
    """A record is a conversation of questions and answers; the first question holds ``<image>`` if there is an image.

    The marker of a single image is moved to the front of its question. With templates (captions), the drawn template
    takes the place of the first question. ``<video>`` stands for a video in the same way; a video without a marker
    comes at the end of the first question, where u-LLaVA puts those of TGIF.

    ``answer_type`` and ``accepted`` (one of each, or a list with one for every question) and ``facts`` go into the
    ``truth`` of queries. A record that has one of the first two is a quiz: its questions do not build on each other.
    ``references``: all that is right in the place of the first answer; training draws one each time, queries carry them
    as ``truth["references"]``. ``things`` ({words, segmentation and/or bbox}, with ``height`` and ``width``) lists
    everything in the image. ``regions`` (with ``height`` and ``width`` of the last image): what the ``<region>`` of the
    questions point at, in order, boxes [x1, y1, x2, y2] in pixels or masks as run-length code
    (ullava.geometry.region_prompts); in a record without it ``<region>`` is a word.
    """

    layout = "llava_json"
    tasks = ("text", "caption", "vqa")
    has_phrase = False
    image_field = "image"

    def texts(self, value: dict[str, Any]) -> Sequence[str]:
        """Return each question with its answer."""
        texts = [part["value"] for part in value["conversations"]]
        return [question + answer for question, answer in zip(texts[::2], texts[1::2], strict=False)]

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return up to ``turns`` questions (0: all): the beginning of a conversation, or a draw from a quiz."""
        record = self.record(index, self.name(index))
        images, videos, turns = self._images(record), self._videos(record, rng), self._turns(record)
        if _is_quiz(record) and len(images) + len(videos) < 2:
            turns = [turns[place] for place in draw(rng, len(turns), self.origin.turns)]
        elif self.origin.turns:
            turns = turns[: self.origin.turns]
        if self.origin.templates and (images or videos):
            question = _asked_of(self.origin.templates.pick(rng), images)
        else:
            question = _with_markers(turns[0].question, record, len(images), len(videos))
        references = self._references(record)
        answer = references[int(rng.integers(len(references)))] if references else turns[0].answer
        turns[0] = replace(turns[0], question=question, answer=answer)
        things, size = self._things(record), self._size(record)
        return Sample(record.sample, self.id, self.task, images, tuple(turns), size, things=things, videos=videos)

    def queries(self, index: int) -> list[Sample]:
        """Return one query for each question, alone; ``truth`` has ``answer`` and what the record says about it."""
        record = self.record(index, self.name(index))
        images, videos, turns = self._images(record), self._videos(record), self._turns(record)
        truths = self._truths(record, turns)
        queries = []
        for place, (turn, truth) in enumerate(zip(turns, truths, strict=True)):
            question = _with_markers(turn.question, record, len(images), len(videos))
            if place == 0 and self.origin.templates and (images or videos):
                question = _asked_of(self.origin.templates.first, images)
            name, asked = f"{record.sample}/{place}", (replace(turn, question=question),)
            told = truth | self._size(record)
            queries.append(Sample(name, self.id, self.task, images, asked, told, videos=videos))
        return queries

    @staticmethod
    def _references(record: Record) -> list[str]:
        if "references" not in record.value:
            return []
        references = record.texts("references")
        if len(record.items("conversations")) > 2:
            record.fail("'references' are answers to the only question, this record has several")
        for place, text in enumerate(references):
            if fault := turn_fault(text, answer=True):
                record.fail(f"'references[{place}]' {fault}")
        return references

    @staticmethod
    def _things(record: Record) -> tuple[Region, ...]:
        if "things" not in record.value:
            return ()
        size = record.size_hw()
        return tuple(part.region(part.text("words"), size, mask_needed=False) for part in record.parts("things"))

    @staticmethod
    def _size(record: Record) -> dict[str, Any]:
        """The size that the image has to have for regions to lie where they should."""
        if record.value.get("regions") is None:
            return {}
        return dict(zip(("height", "width"), record.size_hw(), strict=True))

    def _prompts(self, record: Record, questions: Sequence[str]) -> list[tuple[RegionPrompt, ...]]:
        """Return what each of the questions points at."""
        if record.value.get("regions") is None:
            return [()] * len(questions)
        images, entries = len(self._images(record)), record.items("regions")
        if not images:
            record.fail("'regions' lie on an image, and this record has none")
        counts = [question.count(REGION_MARKER) for question in questions]
        if sum(counts) != len(entries):
            record.fail(f"{sum(counts)} {REGION_MARKER} markers in the questions, but {len(entries)} regions")
        return shared_out(counts, [self._prompt(record, place, images) for place in range(len(entries))])

    @staticmethod
    def _prompt(record: Record, place: int, images: int) -> RegionPrompt:
        size = record.size_hw()
        try:
            region = as_region(record.value["regions"][place])
            if region.image is not None and region.image >= images:
                raise DataError(f"is on image {region.image}, the record has {images}")
            here = region.image is None or region.image == images - 1
            return region_inside(region, size) if here else region
        except DataError as error:
            record.fail(f"'regions[{place}]' {error}")

    def _images(self, record: Record) -> tuple[Path, ...]:
        if record.value.get("image") is None:
            return ()
        if not isinstance(record.value["image"], list):
            return (self.image(record, "image"),)
        names = record.texts("image")
        return tuple(self.image(Record({"image": name}, record.sample, record.where), "image") for name in names)

    def _videos(self, record: Record, rng: np.random.Generator | None = None) -> tuple[Clip, ...]:
        """Return the videos; ``rng`` draws the frames of training, without it they are at equal steps."""
        given = [key for key in VIDEO_KEYS if record.value.get(key) is not None]
        if not given:
            return ()
        if len(given) > 1:
            record.fail(f"has both '{given[0]}' and '{given[1]}'; one of them names the video")
        names = record.texts(given[0]) if isinstance(record.value[given[0]], list) else [record.text(given[0])]
        paths = [self.image(Record({given[0]: name}, record.sample, record.where), given[0]) for name in names]
        return tuple(Clip(path, *clip_sampling(self.origin.frames, rng)) for path in paths)

    def _turns(self, record: Record) -> list[Turn]:
        """Return questions and answers; a single marker is taken out of the first question."""
        parts = record.parts("conversations")
        if not parts or len(parts) % 2:
            record.fail(f"'conversations' has {len(parts)} messages; questions and answers have to alternate")
        texts = []
        for place, part in enumerate(parts):
            speaker = part.text("from")
            if speaker not in SPEAKERS:
                part.fail(f"'from' is '{speaker}'{did_you_mean(speaker, SPEAKERS)}")
            if speaker != SPEAKERS[place % 2]:
                part.fail(f"'from' is '{speaker}', but questions (human) and answers (gpt) have to alternate")
            texts.append(part.text("value"))
            fault = turn_fault(texts[-1], answer=place % 2 == 1)
            if fault:
                part.fail(f"'value' {fault}")
        questions = self._unmarked(record, texts[::2])
        asked = zip(questions, texts[1::2], self._prompts(record, questions), strict=True)
        return [Turn(question, answer, prompts=prompts) for question, answer, prompts in asked]

    def _unmarked(self, record: Record, questions: list[str]) -> list[str]:
        """Check the markers; that of a single image or video is taken out of the first question."""
        images, videos = len(self._images(record)), len(self._videos(record))
        first = questions[0]
        for marker, wanted, things in ((IMAGE_MARKER, images, "images"), (VIDEO_MARKER, videos, "videos")):
            found = [question.count(marker) for question in questions]
            if things == "videos" and not sum(found):
                continue
            if sum(found) != wanted:
                record.fail(f"{sum(found)} {marker} markers in the questions, but {wanted} {things}")
            if found[0] != wanted:
                record.fail(f"{marker} has to stand in the first question")
            if wanted == 1 and images + videos == 1:
                first = first.replace(marker, "").strip()
        if images + videos == 1 and not first and not self.origin.templates:
            record.fail("the first question asks nothing")
        return [first, *questions[1:]]

    def _truths(self, record: Record, turns: list[Turn]) -> list[dict[str, Any]]:
        """Return the truth of each question; fields that are lists with one entry for each question are dealt out."""
        truths: list[dict[str, Any]] = [{"answer": turn.answer} for turn in turns]
        if "accepted" in record.value:
            accepted = record.items("accepted")
            each = [accepted] if len(turns) == 1 and all(isinstance(entry, str) for entry in accepted) else accepted
            self._deal(record, truths, "accepted", [Record({"accepted": e}, record.sample, record.where) for e in each])
        if references := self._references(record):
            truths[0]["references"] = references
        if "answer_type" in record.value:
            kinds = record.value["answer_type"]
            kinds = kinds if isinstance(kinds, list) else [kinds] * len(turns)
            if len(kinds) != len(turns) or not all(isinstance(kind, str) for kind in kinds):
                record.fail(f"'answer_type' has to be a string, or a list of {len(turns)} strings (one a question)")
            for truth, kind in zip(truths, kinds, strict=True):
                truth["answer_type"] = kind
        if record.value.get("facts") is not None:
            truths[0]["facts"] = self._scene(record) if self.task == "caption" else record.value["facts"]
        return truths

    @staticmethod
    def _scene(record: Record) -> dict[str, Any]:
        """Return what captions are checked by: ``{"count": number, "objects": [{name: word, ...}, ...]}``."""
        facts = record.part(record.value["facts"], "facts")
        facts.integer("count")
        for thing in facts.parts("objects"):
            if not all(isinstance(word, str) for word in thing.value.values()):
                thing.fail("has to hold words")
        return facts.value

    @staticmethod
    def _deal(record: Record, truths: list[dict[str, Any]], key: str, entries: list[Record]) -> None:
        if len(entries) != len(truths):
            record.fail(f"'{key}' has {len(entries)} entries for {len(truths)} questions")
        for truth, entry in zip(truths, entries, strict=True):
            truth[key] = entry.texts(key)


def _is_quiz(record: Record) -> bool:
    return "accepted" in record.value or "answer_type" in record.value


def _with_markers(question: str, record: Record, images: int, videos: int) -> str:
    """Put a marker for each image and video in front, unless the question places them itself.

    Videos that no marker places come last.
    """
    if VIDEO_MARKER not in question and VIDEO_MARKER not in str(record.value["conversations"][0]["value"]):
        question += VIDEO_MARKER * videos
    return mark_places(question, images, videos)


def _asked_of(template: str, images: tuple[Path, ...]) -> str:
    """A template whose ``<image>`` stands for what the record has, images or videos."""
    return template if images else template.replace(IMAGE_MARKER, VIDEO_MARKER)
