"""A results folder as ``ullava predict`` writes it, with masks of every kind that a format could lose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ullava.exports.collection import Choice, Collection, gather
from ullava.exports.formats import Exported, export_results
from ullava.exports.results import read_results
from ullava.exports.settings import Settings
from ullava.inference.answer_files import answer_record
from ullava.inference.batch import Question
from ullava.structures import Answer, GroundedObject, MaskArray

H, W = 30, 44
SETTINGS = {"model": "fake", "max_new_tokens": 8}


def plain() -> MaskArray:
    """A staircase without a hole, at two sides of the image."""
    mask = np.zeros((H, W), bool)
    for row in range(12):
        mask[row, : 3 + 2 * row] = True
    return mask


def ring() -> MaskArray:
    """A mask with a hole."""
    y, x = np.mgrid[:H, :W]
    far = (y - 18) ** 2 + (x - 30) ** 2
    return (far < 100) & (far > 20)


def parts() -> MaskArray:
    """Two parts, and a third of one pixel at the last corner."""
    mask = np.zeros((H, W), bool)
    mask[2:9, 25:31] = mask[20:28, 3:9] = mask[-1, -1] = True
    return mask


MASKS = {"stairs": plain(), "red ring": ring(), "two parts": parts()}
BOX = (3.25, 4.5, 20.75, 17.0)


def thing(phrase: str, mask: MaskArray | None, box: Any = None, score: float = 0.9, image: int = 0) -> GroundedObject:
    return GroundedObject(phrase, (0, len(phrase)), mask, box, score, None if mask is None else score, None, image)


def make_images(folder: Path) -> dict[str, Path]:
    """Three images of one size, two of which have the same stem."""
    paths = {"a": folder / "a.png", "b": folder / "b.jpg", "twin": folder / "more" / "a.jpg"}
    for number, path in enumerate(paths.values()):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((H, W, 3), 60 + 50 * number, np.uint8)).save(path)
    return paths


def write_results(folder: Path, answers: list[tuple[Question, Answer]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(answer_record(question, answer, SETTINGS)) + "\n" for question, answer in answers]
    (folder / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def make_results(folder: Path) -> Path:
    """The results of a batch about three images; of a fourth question there are words alone."""
    images = make_images(folder / "images")
    all_masks = tuple(
        thing(phrase, mask, score=0.9 - 0.1 * place) for place, (phrase, mask) in enumerate(MASKS.items())
    )
    answers = [
        (Question("masks", (images["a"],), "Segment everything."), Answer("...", all_masks)),
        (Question("nothing", (images["b"],), "Segment the cat."), Answer("No such object: cat.")),
        (Question("box", (images["twin"],), "Where is the dog?"), Answer("...", (thing("Dog", None, BOX, 0.4),))),
        (Question("both", (images["twin"],), "And the ring?"), Answer("...", (thing("red  ring", ring(), BOX, 0.7),))),
        (Question("words", (), "2 + 2?"), Answer("Four.")),
    ]
    return write_results(folder / "results", answers)


def collection(folder: Path, **choice: Any) -> Collection:
    return gather(read_results(make_results(folder)), Choice(**choice))


def exported(folder: Path, to: str, choice: Choice | None = None, **settings: Any) -> Exported:
    """Export the results of ``make_results`` to ``folder/out``."""
    results = folder / "results"
    if not results.exists():
        make_results(folder)
    return export_results(results, to, folder / "out", choice or Choice(), Settings(**settings))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
