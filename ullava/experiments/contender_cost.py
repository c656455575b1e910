"""What a model spends on an image: visual tokens, seconds of its vision encoder, seconds of an answer; and what it
chose.

Vision encoders that read the question spend differently on different ones, so everything is told by kind of question
too.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from ullava.data.readers.base import TaskDataset
from ullava.errors import DataError
from ullava.examples import Example
from ullava.inference.predictor import Predictor
from ullava.modeling.vision.strategy import VisionOutput
from ullava.structures import Sample

WARM_UPS = 2
"""Questions asked before the clock counts."""


@dataclass(frozen=True, slots=True)
class QuestionCost:
    """One question about one image: its kind, the visual tokens, CPU seconds of the vision encoder, what it told."""

    kind: str
    tokens: int
    encode_s: float
    told: Mapping[str, Any]


def kind_of(sample: Sample) -> str:
    """The kind of question: what the annotation says, else the task."""
    return str(sample.truth.get("answer_type") or sample.task)


class EncodeCost:
    """Runs the vision encoder of a predictor by itself, and whole answers, on one question at a time."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def encode(self, sample: Sample) -> Example:
        """The prompt and the image as the network wants them."""
        return self.predictor.encode([sample], prompt_only=True)[0]

    def questions(self, dataset: TaskDataset, items: int) -> Iterator[list[Sample]]:
        """The single-turn questions with an image of the first ``items`` items, item by item.

        What cannot be used is left out: the evaluation, which comes first, has counted and named it.
        """
        for index in range(min(items, len(dataset))):
            asked: list[Sample] = []
            with suppress(DataError):
                for sample in dataset.queries(index):
                    if len(sample.images) == 1 and self._is_usable(sample):
                        asked.append(sample)
            if asked:
                yield asked

    def _is_usable(self, sample: Sample) -> bool:
        with suppress(DataError):
            return bool(self.encode(sample))
        return False

    @torch.inference_mode()
    def see(self, example: Example) -> tuple[VisionOutput, float]:
        """Visual tokens of the image for the question, and the CPU seconds that they took."""
        inputs = self.predictor.prompt_inputs([example])
        begun = time.process_time()
        seen = self.predictor.model.core.encode_images(inputs)
        return seen, time.process_time() - begun

    def look(self, sample: Sample) -> QuestionCost:
        """Tokens, seconds and choices for one question."""
        seen, seconds = self.see(self.encode(sample))
        return QuestionCost(kind_of(sample), sum(seen.counts), seconds, seen.diagnostics)

    def answer_seconds(self, sample: Sample, max_new_tokens: int) -> float:
        """CPU seconds of one whole answer: image read, vision encoder, words, masks."""
        begun = time.process_time()
        self.predictor.answer_samples([sample], max_new_tokens=max_new_tokens)
        return time.process_time() - begun


def measure_cost(
    predictor: Predictor, datasets: Mapping[str, TaskDataset], items: int, max_new_tokens: int
) -> dict[str, Any]:
    """Costs on the first ``items`` items of each data set, on one thread; seconds are medians of CPU time.

    Raises DataError where none of them has a usable question with one image.
    """
    costing = EncodeCost(predictor)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        looks: list[QuestionCost] = []
        answers: list[float] = []
        for dataset in datasets.values():
            for number, asked in enumerate(costing.questions(dataset, items)):
                if number == 0:
                    for sample in asked[:WARM_UPS]:
                        costing.look(sample)
                        costing.answer_seconds(sample, max_new_tokens)
                looks += [costing.look(sample) for sample in asked]
                answers.append(costing.answer_seconds(asked[number % len(asked)], max_new_tokens))
    finally:
        torch.set_num_threads(before)
    if not looks:
        raise DataError(
            f"images: {items}: no usable question with one image among so many items of {', '.join(datasets)}"
        )
    return _told(looks, answers)


def _told(looks: list[QuestionCost], answers: list[float]) -> dict[str, Any]:
    tokens = [look.tokens for look in looks]
    cost: dict[str, Any] = {
        "questions": len(looks),
        "visual_tokens": {"mean": round(statistics.fmean(tokens), 2), "low": min(tokens), "high": max(tokens)},
        "encode_ms": round(1000 * statistics.median(look.encode_s for look in looks), 3),
        "answer_ms": round(1000 * statistics.median(answers), 3),
    }
    by_kind: dict[str, list[QuestionCost]] = defaultdict(list)
    for look in looks:
        by_kind[look.kind].append(look)
    cost["tokens_by_kind"] = {
        kind: round(statistics.fmean(look.tokens for look in found), 2) for kind, found in sorted(by_kind.items())
    }
    if "granularity" in looks[0].told:
        cost["levels_by_kind"] = {
            kind: dict(sorted(Counter(int(look.told["granularity"][0]) for look in found).items()))
            for kind, found in sorted(by_kind.items())
        }
    if "kept_share" in looks[0].told:
        cost["kept_share_by_kind"] = {
            kind: round(statistics.fmean(look.told["kept_share"][0] for look in found), 4)
            for kind, found in sorted(by_kind.items())
        }
    return cost
