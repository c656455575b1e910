"""A small COCO file that tests change, and what perfect answers to the questions of an imported folder score."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from tests.unit.data.originals import CORNER, SQUARE, H, W, as_json, make_image, opened

from ullava.evaluation.scoring import SCORERS, family_of
from ullava.structures import Answer, GroundedObject, Sample

Command = Callable[..., tuple[int, str, str]]
Change = Callable[[dict[str, Any]], object]

BASE: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "height": H, "width": W},
        {"id": 8, "file_name": "b.jpg", "height": H, "width": W},
    ],
    "annotations": [
        {"id": 70, "image_id": 7, "category_id": 3, "segmentation": [SQUARE], "bbox": [5, 4, 10, 6], "iscrowd": 0},
        {"id": 71, "image_id": 8, "category_id": 4, "segmentation": [CORNER], "bbox": [1, 12, 3, 6], "iscrowd": 0},
    ],
    "categories": [{"id": 3, "name": "dog"}, {"id": 4, "name": "cat"}],
}


def given(root: Path, change: Change = lambda value: None, name: str = "given") -> list[str]:
    """Write two images and the file that ``change`` made of the sound one; return the command that imports it."""
    value = deepcopy(BASE)
    change(value)
    for file in ("a.jpg", "b.jpg"):
        make_image(root / "images" / file)
    path = as_json(root / f"{name}.json", value)
    return ["data", "import", "coco", "--images", str(root / "images"), "--annotations", str(path), "--out",
            str(root / "mine")]  # fmt: skip


def perfect(sample: Sample) -> Answer:
    """The answer that says what the truth says."""
    regions = sample.turns[0].regions
    things = [GroundedObject(region.phrase, (0, 1), region.mask, region.box_xyxy_px, 1.0) for region in regions]
    return Answer("", tuple(things))


def figures(folder: Path, split: str = "train") -> dict[str, float]:
    """What perfect answers score: what one question's truth is, another question's answer must not be."""
    dataset = opened(folder, split)
    scorer = SCORERS[family_of(dataset)]()
    samples = [query for index in range(len(dataset)) for query in dataset.queries(index)]
    known = {(str(s.images[0].resolve()), s.turns[0].question.casefold()): perfect(s) for s in samples}
    for sample in samples:
        scorer.score(sample, known[str(sample.images[0].resolve()), sample.turns[0].question.casefold()])
    return scorer.metric.compute()
