"""What else a model might have answered to a question about one thing: the words alone, with where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from ullava.data.readers.templates import PHRASE_MARKER, find_templates
from ullava.inference.predictor import Predictor
from ullava.structures import CandidateSource, Sample
from ullava.text.answers import split_objects
from ullava.text.tokens import IMAGE_MARKER, SEG

REWORDED = 2
"""In how many other words a question is asked."""


@dataclass(frozen=True, slots=True)
class SaidText:
    """An answer in words, its special tokens among them, and how it was come by."""

    text: str
    provenance: str
    new_tokens: int


def points_at_one(text: str) -> bool:
    """Whether an answer has exactly one ``[SEG]``, and it belongs to a thing."""
    return text.count(SEG) == 1 and sum(found.seg_ordinal is not None for found in split_objects(text)) == 1


@cache
def templates() -> tuple[str, ...]:
    """The project's own wordings of a question about one thing, without the place of the image."""
    return tuple(text.removeprefix(IMAGE_MARKER) for text in find_templates("SEG.json", with_phrase=True).texts)


def reworded(question: str) -> list[str]:
    """The same question in other words, where it is worded as one of ``templates``; else nothing."""
    bare = question.removeprefix(IMAGE_MARKER).strip()
    if bare.count(IMAGE_MARKER):
        return []
    for used in templates():
        before, after = used.split(PHRASE_MARKER)
        if bare.startswith(before) and bare.endswith(after) and len(bare) > len(before) + len(after):
            phrase = bare[len(before) : len(bare) - len(after)]
            marker = IMAGE_MARKER if question.startswith(IMAGE_MARKER) else ""
            others = (text for text in templates() if text != used)
            return [
                marker + text.replace(PHRASE_MARKER, phrase) for text, _ in zip(others, range(REWORDED), strict=False)
            ]
    return []


def asked_as(sample: Sample, question: str) -> Sample:
    """The sample with its last question worded so."""
    return replace(sample, turns=(*sample.turns[:-1], replace(sample.turns[-1], question=question)))


class OtherAnswers:
    """Finds them with ``predictor``; ``beams``: how many answers a search keeps."""

    def __init__(self, predictor: Predictor, sources: Sequence[CandidateSource], beams: int) -> None:
        self.predictor = predictor
        self.sources = sources
        self.beams = beams

    def find(
        self, samples: Sequence[Sample], *, max_new_tokens: int, overrides: Mapping[str, Any]
    ) -> list[list[SaidText]]:
        """For each sample the other answers that point at one thing, those of the search first; none comes twice."""
        found: list[list[SaidText]] = [[] for _ in samples]
        if "beams" in self.sources:
            for place, text in self._searched(samples, max_new_tokens, overrides):
                found[place].append(text)
        if "rephrased" in self.sources:
            words = [
                (place, text) for place, sample in enumerate(samples) for text in reworded(sample.turns[-1].question)
            ]
            again = [asked_as(samples[place], text) for place, text in words]
            answers = self.predictor.answer_samples(again, max_new_tokens=max_new_tokens, overrides=overrides)
            for (place, _), answer in zip(words, answers, strict=True):
                if answer.finished:
                    found[place].append(SaidText(answer.text, "rephrased", answer.new_tokens))
        return [
            list({said.text: said for said in reversed(texts) if points_at_one(said.text)}.values())[::-1]
            for texts in found
        ]

    @torch.inference_mode()
    def _searched(
        self, samples: Sequence[Sample], max_new_tokens: int, overrides: Mapping[str, Any]
    ) -> list[tuple[int, SaidText]]:
        rows = self.predictor.encode(samples, prompt_only=True, overrides=overrides)
        inputs = self.predictor.prompt_inputs(rows, overrides=overrides)
        assert inputs.input_ids is not None
        kept = {"num_beams": self.beams, "num_return_sequences": self.beams, "do_sample": False}
        ids = self.predictor.model.generate(**inputs.as_kwargs(), **kept, max_new_tokens=max_new_tokens)
        new_ids = ids[:, inputs.input_ids.shape[1] :].tolist()
        told = [self.predictor.processor.decode_text(row) for row in new_ids]
        return [
            (number // self.beams, SaidText(text, "beams", new_tokens))
            for number, (text, finished, new_tokens) in enumerate(told)
            if finished
        ]
