"""The demo from end to end: photographs, scenes, models, answers, figures, report."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ullava.atomic_write import make_folder, whole, write_json
from ullava.demo.page import build_report, results_table
from ullava.demo.report import Table, render_html
from ullava.demo.run import DemoRun, ask_photos, ask_worlds, draw_worlds
from ullava.inference.load import load, weights_folder

if TYPE_CHECKING:
    from ullava.inference.predictor import Predictor

PROTOCOL = "generate"
LEAD = (
    "What is answered about photographs and about scenes drawn for this run, and what is true. 'photographs': each one "
    "is asked for every class that it shows and for some that it does not; no model was trained on them. 'seen': new "
    "scenes of known pairs of color and shape; 'unseen': of pairs that training never showed. Each section has the "
    "first question of each photograph, or of each kind and split, then the worst answer of all; nothing is picked by "
    "hand."
)


def demonstrate(
    model: str, out: Path, images: int, seed: int, device: str = "auto", photo_model: str | None = None
) -> Table:
    """Write ``out/report.html`` and ``out/metrics.json``, and return the figures.

    ``photo_model`` answers about the photographs of the project (None: nobody does); then ``model`` about ``images``
    scenes and as many clips of each held-out split, drawn with ``seed`` in a temporary folder. Raises
    UserError for arguments that make no sense, a model that cannot be loaded, and a place that cannot be written.
    """
    started = time.perf_counter()
    run, speakers = DemoRun(), []
    if photo_model is not None:
        predictor = _loaded(photo_model, device)
        run = ask_photos(predictor)
        speakers.append(("photographs", f"{photo_model}, {_parameters(predictor)} parameters"))
        del predictor  # two models at once are not needed
    with tempfile.TemporaryDirectory(prefix="ullava-demo-") as folder:
        worlds = draw_worlds(Path(folder), images, seed)
        print(f"drawn: {images} scenes and {images} clips of each split ({', '.join(worlds)}), seed {seed}")
        predictor = _loaded(model, device)
        speakers.append(("scenes and clips", f"{model}, {_parameters(predictor)} parameters"))
        run = run.then(ask_worlds(predictor, worlds))
        seconds = time.perf_counter() - started
        photos = "" if photo_model is None else f" --photo-model {photo_model}"
        facts = [
            *speakers,
            ("protocol", f"{PROTOCOL}: the model says everything by itself; a mask that it does not offer is missed"),
            ("drawn", f"{images} scenes and as many clips of each split, seed {seed}"),
            ("machine", f"{predictor.device}, {torch.get_num_threads()} threads on {os.cpu_count()} cores"),
            ("time", f"{seconds:.0f} s in all; answering {run.seconds:.1f} s, {_rate(len(run.asked), run.seconds)}"),
            ("command", f"ullava demo --model {model}{photos} --images {images} --seed {seed}"),
        ]
        cards = [name for name in (photo_model, model) if name is not None]
        page = render_html(build_report(run, LEAD, facts, "\n\n".join(filter(None, map(card_text, cards)))))
    make_folder(out)
    about = {"seed": seed, "images": images, "seconds": round(seconds, 1)}
    names = {"model": model} | ({} if photo_model is None else {"photo_model": photo_model})
    with whole(out / "report.html") as unfinished:  # takes its place when the figures are there
        unfinished.write_text(page, encoding="utf-8")
        write_json(out / "metrics.json", {**names, "protocol": PROTOCOL, "results": list(run.results), **about})
    return results_table(run)


def _loaded(model: str, device: str) -> Predictor:
    predictor = load(model, device=device)
    print(f"loaded: {model}, {_parameters(predictor)} parameters, on {predictor.device}")
    return predictor


def card_text(model: str) -> str:
    """Return the model's card (README.md beside its weights or one folder up), or nothing."""
    weights = weights_folder(model)
    for path in (weights / "README.md", weights.parent / "README.md"):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return ""


def _parameters(predictor: Predictor) -> str:
    return f"{sum(weight.numel() for weight in predictor.model.parameters()) / 1e6:.2f} M"


def _rate(questions: int, seconds: float) -> str:
    return f"{questions / max(seconds, 1e-9):.0f} questions/s"
