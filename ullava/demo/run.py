"""The questions of the demo: photographs, then scenes and clips that training never showed; all answers measured.

Photographs are asked for each class that they show, and for classes that they do not. Scenes and clips come from the
held-out splits ``seen`` (new scenes of known color-shape pairs) and ``unseen`` (pairs that training never shows).
Answers are measured by the code that ``ullava eval`` uses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ullava.config.defaults import MAX_NEW_TOKENS
from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset
from ullava.data.loading.descriptor import locate
from ullava.evaluation.metrics.rows import Row
from ullava.evaluation.scoring import SCORERS, Scorer, family_of
from ullava.inference.answering import Answerer
from ullava.structures import Answer, Sample
from ullava.synthetic.write import draw_world
from ullava.synthetic.write_clips import draw_video_world

PHOTOS = "photographs"
"""What stands in the place of a split's name for questions about photographs."""
PHOTO_DATASET = "photo_examples"
PHOTO_ENTRY = DatasetEntry(task="res", split="val", min_area=0.005, absent=0.3)
"""One question for each class of a photograph, and three in ten about a class that it does not show."""
SPLITS = ("seen", "unseen")
DATASETS = (
    "shapes_res",
    "shapes_gres",
    "shapes_salient",
    "shapes_semantic",
    "shapes_instances",
    "shapes_parts",
    "shapes_caption",
    "shapes_vqa",
    "shapes_text",
)
VIDEO_DATASETS = ("shapes_video_caption", "shapes_video_qa")
BATCH = 48

Asked = tuple[str, str, str, Sample]
"""Split, data set, family, query."""


@dataclass(frozen=True, slots=True)
class World:
    """Two folders of one split: drawn images and drawn clips."""

    images: Path
    clips: Path

    def datasets(self) -> Iterator[tuple[str, Path]]:
        """Each data set and its root."""
        yield from ((name, self.images) for name in DATASETS)
        yield from ((name, self.clips) for name in VIDEO_DATASETS)


@dataclass(frozen=True, slots=True)
class DemoItem:
    """One question with its answer and what was measured on it."""

    split: str
    dataset: str
    family: str
    sample: Sample
    answer: Answer
    row: Row


@dataclass(frozen=True, slots=True)
class DemoRun:
    """Everything that was asked, the results in the form of ``metrics.json``, and the seconds that answering took."""

    asked: tuple[DemoItem, ...] = ()
    results: tuple[dict[str, Any], ...] = ()
    seconds: float = 0.0

    def then(self, other: DemoRun) -> DemoRun:
        """Return both runs as one, this one first."""
        return DemoRun(self.asked + other.asked, self.results + other.results, self.seconds + other.seconds)


def draw_worlds(folder: Path, images: int, seed: int) -> dict[str, World]:
    """Draw ``images`` scenes and as many clips of each held-out split below ``folder``; returns split -> world."""
    return {
        split: World(
            draw_world(folder / split / "images", images, seed, split, progress=False),
            draw_video_world(folder / split / "clips", images, seed, split, progress=False),
        )
        for split in SPLITS
    }


def ask_worlds(predictor: Answerer, worlds: dict[str, World], max_new_tokens: int = MAX_NEW_TOKENS) -> DemoRun:
    """Ask every question of every data set of the drawn ``worlds`` and measure the answers.

    Questions about one image or clip travel together, so that it is encoded once. Raises DataError for a world that
    cannot be read.
    """
    return _ask(
        predictor, [item for split, world in worlds.items() for item in _questions(split, world)], max_new_tokens
    )


def ask_photos(predictor: Answerer, max_new_tokens: int = MAX_NEW_TOKENS) -> DemoRun:
    """Ask for the classes of the photographs that ship with the project, and for some that they do not show."""
    dataset = build_dataset(PHOTO_DATASET, PHOTO_ENTRY, Path())  # its descriptor names its own folder
    family = family_of(dataset)
    queries = [sample for index in range(len(dataset)) for sample in dataset.queries(index)]
    return _ask(predictor, [(PHOTOS, PHOTO_DATASET, family, sample) for sample in queries], max_new_tokens)


def _ask(predictor: Answerer, questions: Sequence[Asked], max_new_tokens: int) -> DemoRun:
    answers: list[Answer] = []
    started = time.perf_counter()
    with tqdm(total=len(questions), desc="answering", unit="question") as bar:
        for start in range(0, len(questions), BATCH):
            batch = [sample for _, _, _, sample in questions[start : start + BATCH]]
            answers += predictor.answer_samples(batch, max_new_tokens=max_new_tokens)
            bar.update(len(batch))
    seconds = time.perf_counter() - started
    asked: list[DemoItem] = []
    results: list[dict[str, Any]] = []
    for split, dataset in dict.fromkeys((split, name) for split, name, _, _ in sorted(questions, key=_exam_place)):
        mine = [
            (family, sample, answer)
            for (where, name, family, sample), answer in zip(questions, answers, strict=True)
            if (where, name) == (split, dataset)
        ]
        _measure(split, dataset, mine, asked, results)
    return DemoRun(tuple(asked), tuple(results), seconds)


def _exam_place(question: Asked) -> tuple[int, int]:
    """Where the figures of a question's split and data set stand among the others."""
    split, name, _, _ = question
    names = (PHOTO_DATASET, *DATASETS, *VIDEO_DATASETS)
    return (PHOTOS, *SPLITS).index(split), names.index(name)


def seen_by(sample: Sample) -> tuple[Path, ...]:
    """The files that a question shows: its images and clips."""
    return (*sample.images, *(clip.path for clip in sample.videos))


def _questions(split: str, world: World) -> list[Asked]:
    """Return (split, data set, family, query) of a world, ordered by image and clip."""
    found: list[Asked] = []
    for name, root in world.datasets():
        entry = DatasetEntry()
        if _holds_nothing(locate(name, entry, root).annotations):
            continue
        dataset = build_dataset(name, entry, root)
        family = family_of(dataset)
        found += [(split, name, family, sample) for index in range(len(dataset)) for sample in dataset.queries(index)]
    return sorted(found, key=lambda item: seen_by(item[3]))


def _holds_nothing(annotations: Path) -> bool:
    """Whether a drawn list is empty: a few scenes may be without a salient object or without parts."""
    return not annotations.read_text(encoding="utf-8").strip("[] \n")


def _measure(
    split: str,
    dataset: str,
    mine: Sequence[tuple[str, Sample, Answer]],
    asked: list[DemoItem],
    results: list[dict[str, Any]],
) -> None:
    """Score one data set of one split; adds to ``asked`` and ``results``. Boxes of single targets are scored as REC."""
    family = mine[0][0]
    scorers: dict[str, Scorer] = {family: SCORERS[family]()}
    if dataset == "shapes_res":
        scorers["rec"] = SCORERS["rec"]()
    for group in _by_image(mine):
        samples, answers = [sample for _, sample, _ in group], [answer for _, _, answer in group]
        rows = {name: scorer.score_image(samples, answers) for name, scorer in scorers.items()}
        for place, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
            row = {key: value for name in reversed(list(scorers)) for key, value in rows[name][place].items()}
            if "rec" in rows:
                row["box_iou"] = rows["rec"][place]["iou"]
            asked.append(DemoItem(split, dataset, family, sample, answer, row))
    for name, scorer in scorers.items():
        results.append(
            {
                "dataset": dataset,
                "split": split,
                "task": name,
                "n": len(mine),
                "skipped": 0,
                "metrics": {key: round(value, 2) for key, value in scorer.metric.compute().items()},
            }
        )


def _by_image(
    mine: Sequence[tuple[str, Sample, Answer]],
) -> Iterator[list[tuple[str, Sample, Answer]]]:
    """Yield runs of queries about the same image or clip."""
    group: list[tuple[str, Sample, Answer]] = []
    for item in mine:
        if group and seen_by(group[-1][1]) != seen_by(item[1]):
            yield group
            group = []
        group.append(item)
    if group:
        yield group
