"""One data set through a model: questions by image, answers in batches, a line for each, figures at the end.

Protocols: ``generate`` (the model answers freely; what it does not say is missed) and ``teacher_forced`` (u-LLaVA's
own: the true answer is given and masks and boxes are read at its grounding tokens, so nothing can be missed). What the
given answer gives away is not reported: ``GIVEN_TASKS`` and ``GIVEN_FIGURES``. Under both, the reference answers of
``READ_TASKS`` are also read to the model, for their perplexity. ``text_box`` (ConvLLaVA's): the model
answers freely, and the box of an expression is the four numbers that it writes (``ullava.evaluation.text_boxes``).

The figures are computed from the lines of ``predictions.jsonl`` alone. So a run that was interrupted and one that was
spread over processes give exactly what an undisturbed run gives.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from ullava.config.schema import EvalRecipe
from ullava.data.readers.base import TaskDataset
from ullava.errors import DataError, SampleError
from ullava.evaluation.batching import Query, image_groups, pack
from ullava.evaluation.metrics.meteor import STEMS, SYNONYMS
from ullava.evaluation.result_store import RunFolder
from ullava.evaluation.scorers import make_scorer
from ullava.evaluation.scoring import Scorer, family_of
from ullava.evaluation.video_answers import filed_under
from ullava.inference.export import chosen_to_json, object_to_json, presence_to_json
from ullava.structures import Answer, Sample

GIVEN_TASKS = ("caption", "vqa")
"""Task families whose answers are words alone: with teacher forcing there is nothing left to measure."""
READ_TASKS = ("text",)
"""Task families of which it is measured how likely the reference answer is to the model."""
GIVEN_FIGURES = (
    "N-acc",
    "T-acc",
    "Pr@F1",
    "accuracy",
    "IL_MCC",
    "pmF1",
    "cgF1",
    "macro F1",
    "macro F1 at IoU 0.5",
    "ECE",
    "AURC",
    "CIDEr",
    "BLEU-4",
    STEMS,
    SYNONYMS,
)
"""Figures that a given answer decides: its words, whether there is a mask at all, and how many things it names."""

OUT_OF_MEMORY = "OutOfMemoryError"
"""Name of torch's error; torch itself is not imported here."""


class Answerer(Protocol):
    """What is evaluated: a ``Predictor``, or anything of that shape.

    The task rvos wants one with ``masks_in_videos = True``, whose answers have masks through a clip.
    """

    def answer_samples(self, samples: Sequence[Sample], *, max_new_tokens: int, **generation: Any) -> list[Answer]:
        """Answer single-turn samples freely, in order; ``generation``: see Predictor.answer."""
        ...

    def teacher_forced(self, samples: Sequence[Sample]) -> list[Answer]:
        """Read masks and boxes at the grounding tokens of the given answers."""
        ...

    def surprise(self, samples: Sequence[Sample]) -> list[tuple[float, int]]:
        """The sum of -ln p of the tokens of each given answer, and their number."""
        ...


class DatasetRun:
    """The questions of one data set for one process; ``label`` is the recipe's name for it."""

    def __init__(
        self, predictor: Answerer, dataset: TaskDataset, label: str, recipe: EvalRecipe, folder: RunFolder
    ) -> None:
        self.predictor = predictor
        self.dataset = dataset
        self.label = label
        self.recipe = recipe
        self.folder = folder
        self.family = family_of(dataset)
        self.scorer: Scorer = make_scorer(self.family, recipe)
        self.bad = 0

    def run(self, done: Mapping[int, set[int]], totals: Mapping[int, int], progress: bool = True) -> int:
        """Answer what is not done yet and append the lines; return the number of bad samples.

        ``done`` holds the numbers of the stored questions of an index, ``totals`` how many questions it has.
        Raises DataError when more samples are bad than the recipe's budget allows.
        """
        shard = self.folder.shard
        groups = image_groups(self.dataset)[shard.rank :: shard.world]
        left = [group for group in groups if any(len(done.get(i, ())) != totals.get(i, -1) for i in group)]
        items = sum(map(len, groups))
        bar = tqdm(
            total=items,
            initial=items - sum(map(len, left)),
            desc=self.label,
            unit="item",
            disable=not progress or shard.rank > 0 or not left,
        )
        with bar:
            for batch in pack(self._loaded(left), self.recipe.batch_size):
                self._answer_batch(batch)
                bar.update(len({query.item for group in batch for query in group}))
        return self.bad

    def _loaded(self, groups: Sequence[Sequence[int]]) -> Iterator[list[Query]]:
        """Yield the questions of each group, read ahead by ``num_workers`` threads."""
        if self.recipe.num_workers == 0:
            for group in groups:
                yield self._keep(self._read(group))
            return
        ahead = max(2 * self.recipe.num_workers, self.recipe.batch_size)
        waiting = iter(groups)
        with ThreadPoolExecutor(self.recipe.num_workers) as pool:
            pending: list[Future[list[Query | _Bad]]] = [pool.submit(self._read, g) for g in islice(waiting, ahead)]
            while pending:
                loaded = pending.pop(0).result()
                pending.extend(pool.submit(self._read, group) for group in islice(waiting, 1))
                yield self._keep(loaded)

    def _read(self, group: Sequence[int]) -> list[Query | _Bad]:
        found: list[Query | _Bad] = []
        for item in group:
            try:
                samples = self.dataset.queries(item)
            except DataError as error:
                found.append(_Bad(item, self._name_of(item, error), _reason(error)))
                continue
            found.extend(Query(item, number, len(samples), sample) for number, sample in enumerate(samples))
        return found

    def _name_of(self, item: int, error: DataError) -> str:
        return error.sample if isinstance(error, SampleError) else f"{self.dataset.id}/{self.dataset.split}/{item}"

    def _keep(self, found: Iterable[Query | _Bad]) -> list[Query]:
        """Report what could not be read; return the rest."""
        queries = []
        for entry in found:
            if isinstance(entry, _Bad):
                self._report(entry)
            else:
                queries.append(entry)
        return queries

    def _answer_batch(self, batch: Sequence[Sequence[Query]]) -> None:
        queries = [query for group in batch for query in group]
        answers = self._qa_pair(queries)
        records = []
        place = 0
        for group in batch:
            answered = []
            for query, answer in zip(group, answers[place : place + len(group)], strict=True):
                if isinstance(answer, _Bad):
                    self._report(answer)
                else:
                    answered.append((query, answer))
            place += len(group)
            records.extend(self._score(answered))
        self.folder.append(records)

    def _qa_pair(self, queries: Sequence[Query]) -> list[Answer | _Bad]:
        """Answer a batch; if a sample of it cannot be used, or memory is short, its halves are asked one by one."""
        samples = [query.sample for query in queries]
        try:
            if self.recipe.protocol == "teacher_forced":
                answers = self.predictor.teacher_forced(samples)
            else:
                most, beams = self.recipe.max_new_tokens, self.recipe.caption_beams
                searched = {"num_beams": beams} if self.family == "caption" and beams > 1 else {}
                answers = self.predictor.answer_samples(samples, max_new_tokens=most, **searched)
            if self.family not in READ_TASKS:
                return list(answers)
            read = self.predictor.surprise(samples)
            return [replace(answer, surprise=told) for answer, told in zip(answers, read, strict=True)]
        except DataError as error:
            if len(queries) == 1:
                return [_Bad(queries[0].item, samples[0].name, _reason(error))]
        except RuntimeError as error:
            if len(queries) == 1 or type(error).__name__ != OUT_OF_MEMORY:
                raise
        half = len(queries) // 2
        return self._qa_pair(queries[:half]) + self._qa_pair(queries[half:])

    def _score(self, answered: Sequence[tuple[Query, Answer]]) -> list[dict[str, Any]]:
        """Score the answers of one image, of which all may have been bad, and return their records."""
        if not answered:
            return []
        try:
            rows = self.scorer.score_image([query.sample for query, _ in answered], [a for _, a in answered])
        except SampleError as error:
            named = [pair for pair in answered if pair[0].sample.name == error.sample]
            if not named:
                raise
            self._report(_Bad(named[0][0].item, error.sample, error.reason))
            return self._score([pair for pair in answered if pair[0].sample.name != error.sample])
        return [self._record(q, a, row) for (q, a), row in zip(answered, rows, strict=True)]

    def _record(self, query: Query, answer: Answer, row: Mapping[str, Any]) -> dict[str, Any]:
        sample = query.sample
        return {
            "id": sample.name,
            "dataset": self.label,
            "task": self.family,
            "item": query.item,
            "query": query.number,
            "queries": query.total,
            "image": str(sample.images[0]) if sample.images else None,
            **({"video": str(sample.videos[0].path)} if sample.videos else {}),
            **(filed_under(sample) if self.family == "rvos" else {}),
            "prompt": sample.turns[0].question,
            "answer": answer.text,
            "finished": answer.finished,
            "objects": [object_to_json(thing) for thing in answer.objects],
            **chosen_to_json(answer),
            **presence_to_json(answer),
            "scores": dict(row),
        }

    def _report(self, bad: _Bad) -> None:
        self.bad += 1
        self.folder.append_bad({"dataset": self.label, "item": bad.item, "sample": bad.sample, "reason": bad.reason})
        if self.bad > self.recipe.bad_sample_budget:
            budget = self.recipe.bad_sample_budget
            raise DataError(
                f"{bad.sample}: {bad.reason} (bad_sample_budget is {budget}; all are listed in {self.folder.bad})"
            )


class _Bad:
    """A sample that could not be used."""

    __slots__ = ("item", "sample", "reason")

    def __init__(self, item: int, sample: str, reason: str) -> None:
        self.item, self.sample, self.reason = item, sample, reason


def _reason(error: DataError) -> str:
    return error.reason if isinstance(error, SampleError) else "; ".join(error.problems)


STORED = {"dataset": str, "item": int, "query": int, "queries": int, "scores": dict}
"""What a stored prediction has, whatever else it holds."""


def stored_questions(
    records: Iterable[Mapping[str, Any]], labels: Iterable[str], source: Path
) -> dict[str, tuple[dict[int, set[int]], dict[int, int]]]:
    """Return for each label which questions of which index are stored, and how many questions each index has.

    Raises DataError, which names ``source``, for a record that is no prediction or not of one of ``labels``.
    """
    known = set(labels)
    done: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    totals: dict[str, dict[int, int]] = defaultdict(dict)
    for number, record in enumerate(records, start=1):
        if not all(isinstance(record.get(key), kind) for key, kind in STORED.items()) or record["dataset"] not in known:
            raise DataError(f"{source}:{number}: is not a prediction of this evaluation; choose another --out")
        done[record["dataset"]][record["item"]].add(record["query"])
        totals[record["dataset"]][record["item"]] = record["queries"]
    return {label: (done[label], totals[label]) for label in done}
