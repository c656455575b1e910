"""The folders of mask images that the servers of MeViS and Refer-YouTube-VOS take, from the lines of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ullava.atomic_write import whole_folder
from ullava.data.annotations.file_names import find_below
from ullava.data.readers.base import TaskDataset
from ullava.errors import ConfigError, DataError
from ullava.evaluation.result_store import read_lines
from ullava.evaluation.video_answers import MASK_SUFFIX, filed_under
from ullava.geometry import VideoMasks, united
from ullava.structures import MaskArray, Sample

WHITE = np.uint8(255)


def check_submission(datasets: Mapping[str, TaskDataset], out: Path) -> None:
    """Refuse what cannot be written: another task, several data sets, a folder that holds something. ConfigError."""
    wrong = [label for label, dataset in datasets.items() if dataset.task != "rvos"]
    if wrong or len(datasets) != 1:
        told = f"{wrong[0]} has the task {datasets[wrong[0]].task}" if wrong else f"the recipe has {len(datasets)}"
        raise ConfigError(f"--submission: is for one data set of masks in videos (task rvos); {told}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--submission: {out} exists and is not an empty folder; name another folder or remove it")


def write_submission(predictions: Path, dataset: TaskDataset, out: Path) -> int:
    """Write ``<clip>/<expression>/<frame>.png``, white where the answer's things are; return how many expressions.

    One clip is in memory at a time, and of its masks one. Nothing is left behind where it fails. Raises DataError where
    ``predictions`` lack the answer to an expression, and for names that lead out of the folder.
    """
    count = 0
    with whole_folder(out.absolute()) as folder:
        for sample, record in _answered(predictions, dataset):
            key = filed_under(sample)
            place = find_below(folder, f"{key['clip']}/{key['expression_id']}", "clip/expression_id")
            place.mkdir(parents=True)
            found = [VideoMasks.from_json(thing["masks"]) for thing in record["objects"] if "masks" in thing]
            size_hw = int(sample.truth["height"]), int(sample.truth["width"])
            frames = sample.truth["frames"]
            masks = united(found) if found else VideoMasks.absent(size_hw, len(frames))
            for number, name in enumerate(frames):
                find_below(place, f"{name}{MASK_SUFFIX}", "frames").write_bytes(_png(masks.mask(number)))
            count += 1
    return count


def _answered(predictions: Path, dataset: TaskDataset) -> Iterator[tuple[Sample, dict[str, Any]]]:
    """Yield every expression with its line, in the order of the lines, which is that of the data set."""
    queries: tuple[int, list[Sample]] = (-1, [])
    seen = 0
    for record in read_lines(predictions):
        if record["item"] != queries[0]:
            queries = record["item"], dataset.queries(record["item"])
        yield queries[1][record["query"]], record
        seen += 1
    total = sum(len(dataset.queries(item)) for item in range(len(dataset)))
    if seen != total:
        raise DataError(f"{predictions}: {seen} of {total} expressions are answered; a server wants all of them")


def _png(mask: MaskArray) -> bytes:
    done, data = cv2.imencode(MASK_SUFFIX, mask * WHITE, [cv2.IMWRITE_PNG_COMPRESSION, 6])
    if not done:
        raise ValueError(f"a mask of shape {list(mask.shape)} cannot be written as PNG")
    return data.tobytes()
