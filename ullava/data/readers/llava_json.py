"""Conversations in words: ``{id, image?, conversations: [{from: human|gpt, value}]}``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ullava.data.readers.base import Reader, draw
from ullava.data.readers.record import Record
from ullava.errors import did_you_mean
from ullava.structures import Region, Sample, Turn
from ullava.text.tokens import IMAGE_MARKER

SPEAKERS = ("human", "gpt")


class LlavaJsonReader(Reader):
    """A record is a conversation of questions and answers; the first question holds ``<image>`` if there is a picture.

    The marker of a single picture is moved to the front of its question. With templates (captions), the drawn template
    takes the place of the first question. ``answer_type`` and ``accepted`` (one of each, or a list with one for every
    question) and ``facts`` go into the ``truth`` of queries. A record that has one of the first two is a quiz: its
    questions do not build on each other. ``things`` ({words, segmentation and/or bbox}, with ``height`` and ``width``)
    lists everything in the picture.
    """

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return up to ``turns`` questions (0: all): the beginning of a conversation, or a draw from a quiz."""
        record = self.record(index, self.name(index))
        images, turns = self._images(record), self._turns(record)
        if _is_quiz(record) and len(images) < 2:
            turns = [turns[place] for place in draw(rng, len(turns), self.origin.turns)]
        elif self.origin.turns:
            turns = turns[: self.origin.turns]
        if self.origin.templates and images:
            turns[0] = Turn(self.origin.templates.pick(rng), turns[0].answer)
        else:
            turns[0] = Turn(_with_markers(turns[0].question, images), turns[0].answer)
        return Sample(record.sample, self.id, self.task, images, tuple(turns), things=self._things(record))

    def queries(self, index: int) -> list[Sample]:
        """Return one query for each question, alone; ``truth`` has ``answer`` and what the record says about it."""
        record = self.record(index, self.name(index))
        images, turns = self._images(record), self._turns(record)
        truths = self._truths(record, turns)
        queries = []
        for place, (turn, truth) in enumerate(zip(turns, truths, strict=True)):
            question = _with_markers(turn.question, images)
            if place == 0 and self.origin.templates and images:
                question = self.origin.templates.first
            name = f"{record.sample}/{place}"
            queries.append(Sample(name, self.id, self.task, images, (Turn(question, turn.answer),), truth))
        return queries

    @staticmethod
    def _things(record: Record) -> tuple[Region, ...]:
        if "things" not in record.value:
            return ()
        size = record.size_hw()
        return tuple(part.region(part.text("words"), size, mask_needed=False) for part in record.parts("things"))

    def _images(self, record: Record) -> tuple[Path, ...]:
        if record.value.get("image") is None:
            return ()
        if not isinstance(record.value["image"], list):
            return (self.image(record, "image"),)
        names = record.texts("image")
        return tuple(self.image(Record({"image": name}, record.sample, record.where), "image") for name in names)

    def _turns(self, record: Record) -> list[Turn]:
        """Return questions and answers; the marker of a single picture is taken out of the first question."""
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
        questions = self._unmarked(record, texts[::2])
        return [Turn(question, answer) for question, answer in zip(questions, texts[1::2], strict=True)]

    def _unmarked(self, record: Record, questions: list[str]) -> list[str]:
        wanted = len(self._images(record))
        found = [question.count(IMAGE_MARKER) for question in questions]
        if sum(found) != wanted:
            record.fail(f"{sum(found)} {IMAGE_MARKER} markers in the questions, but {wanted} pictures")
        if found[0] != wanted:
            record.fail(f"{IMAGE_MARKER} has to stand in the first question")
        if wanted != 1:
            return questions
        rest = questions[0].replace(IMAGE_MARKER, "").strip()
        if not rest and not self.origin.templates:
            record.fail("the first question asks nothing")
        return [rest, *questions[1:]]

    def _truths(self, record: Record, turns: list[Turn]) -> list[dict[str, Any]]:
        """Return the truth of each question; fields that are lists with one entry for each question are dealt out."""
        truths: list[dict[str, Any]] = [{"answer": turn.answer} for turn in turns]
        if "accepted" in record.value:
            accepted = record.items("accepted")
            each = [accepted] if len(turns) == 1 and all(isinstance(entry, str) for entry in accepted) else accepted
            self._deal(record, truths, "accepted", [Record({"accepted": e}, record.sample, record.where) for e in each])
        if "answer_type" in record.value:
            kinds = record.value["answer_type"]
            kinds = kinds if isinstance(kinds, list) else [kinds] * len(turns)
            if len(kinds) != len(turns) or not all(isinstance(kind, str) for kind in kinds):
                record.fail(f"'answer_type' has to be a string, or a list of {len(turns)} strings (one a question)")
            for truth, kind in zip(truths, kinds, strict=True):
                truth["answer_type"] = kind
        if "facts" in record.value:
            truths[0]["facts"] = record.value["facts"]
        return truths

    @staticmethod
    def _deal(record: Record, truths: list[dict[str, Any]], key: str, entries: list[Record]) -> None:
        if len(entries) != len(truths):
            record.fail(f"'{key}' has {len(entries)} entries for {len(truths)} questions")
        for truth, entry in zip(truths, entries, strict=True):
            truth[key] = entry.texts(key)


def _is_quiz(record: Record) -> bool:
    return "accepted" in record.value or "answer_type" in record.value


def _with_markers(question: str, images: tuple[Path, ...]) -> str:
    """Put one ``<image>`` for each picture in front, unless the question places them itself."""
    return question if IMAGE_MARKER in question else IMAGE_MARKER * len(images) + question
