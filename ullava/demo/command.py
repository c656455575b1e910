"""The demo from end to end: scenes, model, answers, figures, report."""

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
from ullava.demo.run import ask_worlds, draw_worlds
from ullava.inference.load import load, weights_folder

if TYPE_CHECKING:
    from ullava.inference.predictor import Predictor

PROTOCOL = "generate"


def demonstrate(model: str, out: Path, images: int, seed: int, device: str = "auto") -> Table:
    """Write ``out/report.html`` and ``out/metrics.json`` for ``model`` on newly drawn scenes; returns the figures.

    ``images`` scenes and as many clips are drawn of each held-out split with ``seed``, in a temporary folder. Raises
    UserError for arguments that make no sense, a model that cannot be loaded, and a place that cannot be written.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ullava-demo-") as folder:
        worlds = draw_worlds(Path(folder), images, seed)
        print(f"drawn: {images} scenes and {images} clips of each split ({', '.join(worlds)}), seed {seed}")
        predictor = load(model, device=device)
        print(f"loaded: {model}, {_parameters(predictor)} parameters, on {predictor.device}")
        run = ask_worlds(predictor, worlds)
        lead = (
            f"What the model '{model}' answers about scenes drawn for this run, and what is true. 'seen': new scenes "
            "of known pairs of color and shape; 'unseen': of pairs that training never showed. Each section has the "
            "first question of each kind and split, then the worst answer of all; nothing is picked by hand."
        )
        seconds = time.perf_counter() - started
        facts = [
            ("model", f"{model}, {_parameters(predictor)} parameters"),
            ("protocol", f"{PROTOCOL}: the model says everything by itself; a mask that it does not offer is missed"),
            ("scenes", f"{images} and as many clips of each split, seed {seed}, {len(run.asked)} questions"),
            ("machine", f"{predictor.device}, {torch.get_num_threads()} threads on {os.cpu_count()} cores"),
            ("time", f"{seconds:.0f} s in all; answering {run.seconds:.1f} s, {_rate(len(run.asked), run.seconds)}"),
            ("command", f"ullava demo --model {model} --images {images} --seed {seed}"),
        ]
        page = render_html(build_report(run, lead, facts, card_text(model)))
    make_folder(out)
    about = {"seed": seed, "images": images, "seconds": round(seconds, 1)}
    with whole(out / "report.html") as unfinished:  # takes its place when the figures are there
        unfinished.write_text(page, encoding="utf-8")
        write_json(out / "metrics.json", {"model": model, "protocol": PROTOCOL, "results": list(run.results), **about})
    return results_table(run)


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
