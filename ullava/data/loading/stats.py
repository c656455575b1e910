"""What a recipe's data yields: counts and ratios, lengths of questions and answers, regions, bad samples by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ullava.config.load import load_config
from ullava.config.recipes import config_class
from ullava.config.schema import EvalRecipe, TrainRecipe
from ullava.data.augment import Augmenter
from ullava.data.loading.build import build_mixture
from ullava.data.readers.boxes import BoxedDataset
from ullava.data.sampling.mixture import Mixture
from ullava.errors import ConfigError, DataError, SampleError
from ullava.given_files import check_plain
from ullava.media.images import stored_frame_of_head, upright_hw
from ullava.resources import find
from ullava.structures import Sample

SAMPLES = 2000
SHOWN = 20
_HEADS = tuple("dataset,split,task,items,per epoch,share,read,bad,turns,regions,no target".split(","))
_HEADS += ("question words", "answer words", "mask area %")


def run_stats(recipe_path: str | Path, overrides: Sequence[str], samples: int = SAMPLES) -> dict[str, Any]:
    """Walk up to ``samples`` positions of one epoch, print a report, and return it.

    Every record is read and its masks decoded, and every image is looked for, but images are not decoded. ``bad``
    lists {name, reason} of samples that cannot be used. Raises UserError for a recipe that cannot be read and for data
    that is not there.
    """
    path = find("configs", str(recipe_path))
    cls = config_class(path)
    if cls not in (TrainRecipe, EvalRecipe):
        raise ConfigError(f"{path}: not a recipe: stats are of the data that a recipe trains on or evaluates")
    recipe = load_config(cls, path, overrides)
    seed = recipe.training.get("seed", 42) if isinstance(recipe, TrainRecipe) else 0
    block = recipe.shuffle_block if isinstance(recipe, TrainRecipe) else None
    mixture = build_mixture(recipe.dataset, Path(recipe.data_root), int(seed), block)
    report = {"recipe": str(path), "seed": int(seed), **measure_mixture(mixture, samples)}
    print(format_report(report))
    return report


def measure_mixture(mixture: Mixture, samples: int = SAMPLES) -> dict[str, Any]:
    """Return ``positions_per_epoch``, ``walked``, ``datasets`` (a row each) and ``bad`` for the first positions."""
    walked = min(samples, mixture.positions_per_epoch)
    tallies = [_Tally() for _ in mixture.datasets]
    augmenter = Augmenter.of(mixture)
    bad: list[dict[str, str]] = []
    for position in tqdm(range(walked), desc="reading samples", unit="", disable=None):
        number, index, rng = mixture.locate(position)
        try:
            sample = mixture.datasets[number].sample(index, rng)
            _look_for_images(sample)
        except SampleError as error:
            tallies[number].bad += 1
            bad.append({"name": error.sample, "reason": error.reason})
            continue
        tallies[number].add(sample)
        if augmenter is not None and mixture.entries[number].augment is not None:
            tallies[number].add_plan(augmenter, position, sample)
    rows = [row | tally.row() for row, tally in zip(mixture.describe(), tallies, strict=True)]
    for row, dataset in zip(rows, mixture.datasets, strict=True):
        row["has_boxes"] = isinstance(dataset, BoxedDataset)
    return {"positions_per_epoch": mixture.positions_per_epoch, "walked": walked, "datasets": rows, "bad": bad}


def format_report(report: dict[str, Any]) -> str:
    """Return the report as a table for people."""
    table: list[tuple[str, ...]] = [_HEADS]
    for row in report["datasets"]:
        cells = [row["dataset"], row["split"], row["task"], row["items"], row["per_epoch"], f"{row['share']:.1%}"]
        cells += [row["walked"], row["bad"], _mean(row["turns"]), _mean(row["regions"]), row["turns_without_target"]]
        cells += [_range(row["question_words"]), _range(row["answer_words"]), _range(row["mask_area_percent"])]
        table.append(tuple(map(str, cells)))
    widths = [max(len(line[column]) for line in table) for column in range(len(_HEADS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    lines.append("turns, regions: mean; words, area: least-median-most")
    lines.append(f"{report['walked']} of {report['positions_per_epoch']} positions of an epoch were read")
    lines += [_boxes_line(row) for row in report["datasets"] if row["has_boxes"]]
    lines += [_augmented_line(row) for row in report["datasets"] if row["augmented"]]
    lines += [f"bad: {entry['name']}: {entry['reason']}" for entry in report["bad"][:SHOWN]]
    if len(report["bad"]) > SHOWN:
        lines.append(f"... and {len(report['bad']) - SHOWN} more bad samples")
    return "\n".join(lines)


def _boxes_line(row: dict[str, Any]) -> str:
    """How many of the images the file of found boxes knows, and how many boxes they have (least-median-most)."""
    known = f"{row['images_with_boxes']} of {row['images']} images have boxes"
    return f"{row['dataset']}: {known}, {_range(row['boxes'])} each"


def _augmented_line(row: dict[str, Any]) -> str:
    """How many of the samples are changed, and why those are not that a change was drawn for."""
    return f"{row['dataset']}: augmented: " + "; ".join(f"{what} {count}" for what, count in row["augmented"].items())


class _Tally:
    """Collects the numbers of one dataset's samples."""

    def __init__(self) -> None:
        self.walked = 0
        self.bad = 0
        self.turns: list[int] = []
        self.regions: list[int] = []
        self.question_words: list[int] = []
        self.answer_words: list[int] = []
        self.areas: list[float] = []
        self.without_target = 0
        self.images = 0
        self.boxed = 0
        self.boxes: list[int] = []
        self.augmented: Counter[str] = Counter()

    def add(self, sample: Sample) -> None:
        self.walked += 1
        self.turns.append(len(sample.turns))
        self.images += len(sample.images)
        self.boxed += sum(found is not None for found in sample.boxes)
        self.boxes += [len(found.labels) for found in sample.boxes if found is not None]
        for turn in sample.turns:
            self.regions.append(len(turn.regions))
            self.question_words.append(len(turn.question.split()))
            self.answer_words.append(len(turn.answer.split()))
            self.areas += [100 * float(region.mask.mean()) for region in turn.regions if region.mask is not None]
            self.without_target += sample.task in ("res", "rec") and not turn.regions

    def add_plan(self, augmenter: Augmenter, position: int, sample: Sample) -> None:
        if not sample.images:
            return
        try:
            plan = augmenter.plan(position, sample, upright_hw(*stored_frame_of_head(sample.images[0])))
        except DataError:  # an image that cannot be read: training counts it
            return
        self.augmented.update(plan.done)
        self.augmented.update(f"no {reason}" for reason in plan.kept)

    def row(self) -> dict[str, Any]:
        return {
            "walked": self.walked,
            "bad": self.bad,
            "turns": _spread(self.turns),
            "regions": _spread(self.regions),
            "turns_without_target": self.without_target,
            "question_words": _spread(self.question_words),
            "answer_words": _spread(self.answer_words),
            "mask_area_percent": _spread(self.areas),
            "images": self.images,
            "images_with_boxes": self.boxed,
            "boxes": _spread(self.boxes),
            "augmented": dict(sorted(self.augmented.items())),
        }


def _look_for_images(sample: Sample) -> None:
    for image in sample.images:
        _look_for(image, "image", sample)
    for clip in sample.videos:
        _look_for(clip.path, "video", sample)


def _look_for(path: Path, what: str, sample: Sample) -> None:
    try:
        check_plain(path, what=what)
    except DataError as error:
        raise SampleError(sample.name, str(error)) from error


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    numbers = np.asarray(values, dtype=np.float64)
    low, middle, high = np.percentile(numbers, [0, 50, 100])
    return {"least": float(low), "median": float(middle), "mean": float(numbers.mean()), "most": float(high)}


def _mean(spread: dict[str, float] | None) -> str:
    return "-" if spread is None else f"{spread['mean']:.2f}"


def _range(spread: dict[str, float] | None) -> str:
    return "-" if spread is None else f"{spread['least']:.3g}-{spread['median']:.3g}-{spread['most']:.3g}"
