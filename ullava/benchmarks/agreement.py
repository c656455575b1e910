"""How far a model in fewer bits agrees with the whole one: the same questions to both, mask beside mask.

Meant for ``ullava bench quantize``; the seconds are those of one process on a machine that may do other things.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ullava.benchmarks.predict import PHOTO, PROMPT, weights_mib
from ullava.benchmarks.timing import cpu_seconds, surroundings
from ullava.config.quantization import Quantization
from ullava.geometry import mask_iou
from ullava.resources import find
from ullava.structures import Answer

WORLD_DATA = "shapes_res"
Question = tuple[Path, str]


def bench_quantize(model: str, kind: Quantization, world: Path | None, *, threads: int, device: str) -> dict[str, Any]:
    """Ask ``model``, whole and in ``kind``, about the photographs that ship with the repository, or a drawn ``world``.

    Returns what ``agreement`` tells with seconds of CPU for an answer and MiB of weights, of both. Raises UserError.
    """
    import torch

    from ullava.inference.load import load

    torch.set_num_threads(threads)
    questions = photo_questions() if world is None else world_questions(world)
    few = load(model, device=device, quantize=kind)
    found = agreement(load(model, device=device), few, questions)
    report = {"benchmark": "quantize", "model": model, "kind": kind, "about": str(world or PHOTO)}
    return report | found | surroundings(threads, 1)


def photo_questions() -> list[Question]:
    """One question about each photograph of ours."""
    folder = find("datasets", PHOTO).parent / "images"
    return [(path, PROMPT) for path in sorted(folder.glob("*.jpg"))]


def world_questions(world: Path) -> list[Question]:
    """The first question about each image of a drawn world."""
    from ullava.config.schema import DatasetEntry
    from ullava.data.loading.build import build_mixture

    mixture = build_mixture({WORLD_DATA: DatasetEntry(turns=1)}, world, 0)
    asked: dict[Path, str] = {}
    for position in range(mixture.positions_per_epoch):
        sample = mixture.sample(position)
        asked.setdefault(sample.images[0], sample.turns[0].question)
    return list(asked.items())


def agreement(whole: Any, few: Any, questions: Sequence[Question]) -> dict[str, Any]:
    """Ask both predictors; tell how many answers say the same and how well masks of the same place overlap.

    ``lost``: masks of the first that the second has none for, or a blank one; their overlap counts as 0.
    """
    spent, answers = [], []
    for predictor in (whole, few):
        begun = cpu_seconds()
        answers.append([predictor.answer(path, prompt) for path, prompt in questions])
        spent.append(round((cpu_seconds() - begun) / len(questions), 3))
    pairs = list(zip(*answers, strict=True))
    overlaps = [value for pair in pairs for value in _overlaps(*pair)]
    return {
        "questions": len(questions),
        "same_words": sum(first.text == second.text for first, second in pairs),
        "masks": len(overlaps),
        "lost": sum(value == 0.0 for value in overlaps),
        "mean_iou": round(float(np.mean(overlaps)), 4) if overlaps else None,
        "least_iou": round(min(overlaps), 4) if overlaps else None,
        "cpu_s_per_answer": spent,
        "weights_mib": [weights_mib(predictor.model) for predictor in (whole, few)],
    }


def table(report: Mapping[str, Any]) -> str:
    """The report as lines of text."""
    (before_s, after_s), (before, after) = report["cpu_s_per_answer"], report["weights_mib"]
    iou = "-" if report["mean_iou"] is None else f"{report['mean_iou']:.4f}, at the least {report['least_iou']:.4f}"
    return "\n".join([
        f"{report['model']} in {report['kind']}: {report['same_words']} of {report['questions']} answers in the same "
        "words",
        f"  masks           {report['masks']}, lost {report['lost']}; IoU with those of the whole model {iou}",
        f"  weights         {before:,.0f} -> {after:,.0f} MiB",
        f"  an answer       {before_s:.3f} -> {after_s:.3f} s of CPU, {report['threads']} thread(s): "
        f"{report['processor']}",
    ])  # fmt: skip


def _overlaps(first: Answer, second: Answer) -> list[float]:
    masks = [thing.mask for thing in second.objects]
    return [
        0.0 if place >= len(masks) or (other := masks[place]) is None else mask_iou(thing.mask, other)
        for place, thing in enumerate(first.objects)
        if thing.mask is not None and thing.mask.any()
    ]
