"""``ullava compare``: several models through one evaluation, with what each spends; a table and an image of it.

Every contender has a folder of its own below the output: that of its evaluation (``metrics.json`` and the rest) with
``cost.json`` beside. What is there already is not measured again, so a comparison goes on where it was stopped, and
contenders may be given to several processes by label; each writes the report of all that are done.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ullava import resources
from ullava.atomic_write import write_json, write_whole
from ullava.benchmarks.timing import surroundings
from ullava.config.comparison import CompareRecipe, Contender
from ullava.config.load import load_config
from ullava.config.schema import EvalRecipe
from ullava.data.loading.build import build_datasets
from ullava.errors import ConfigError, UserError, did_you_mean
from ullava.evaluation.fingerprint import model_identity
from ullava.evaluation.run import check_entries, evaluate
from ullava.experiments.comparison_report import FIGURE, REPORT, TABLE, draw_figure, table_of
from ullava.experiments.contender_cost import measure_cost
from ullava.experiments.kept_cells import draw_kept
from ullava.inference.load import load, weights_folder
from ullava.run_lock import hold

COST = "cost.json"
KEPT = "kept.png"
REPORT_WAIT_S = 60.0
"""How long to wait for another process that writes the report of the contenders that are done."""


def compare(
    recipe: CompareRecipe, out: Path, *, only: Sequence[str] = (), progress: bool = True
) -> list[dict[str, Any]]:
    """Measure the contenders (``only`` these, where any are named) and return the rows of all that are done.

    Raises UserError for a label, model, recipe or data that is not there, before anything is measured, and for a
    contender that another process measures.
    """
    evaluation = _evaluation(recipe)
    unknown = [
        f"no contender is called '{label}'{did_you_mean(label, recipe.contenders)}"
        for label in only
        if label not in recipe.contenders
    ]
    if unknown:
        raise UserError(unknown)
    chosen = {label: entry for label, entry in recipe.contenders.items() if not only or label in only}
    problems: list[str] = []
    for label, entry in chosen.items():
        try:
            weights_folder(entry.model)
        except UserError as error:
            problems += [f"contender {label}: {problem}" for problem in error.problems]
    if problems:
        raise UserError(problems)
    check_entries(evaluation)
    built = build_datasets(evaluation.dataset, Path(evaluation.data_root))
    datasets = dict(zip(evaluation.dataset, built, strict=True))
    for label, entry in chosen.items():
        if progress:
            print(f"contender {label}: {entry.model} {entry.overrides or ''}".rstrip(), flush=True)
        with hold(out / label):
            _measure(label, entry, evaluation, datasets, recipe.images, out, progress)
    with hold(out, wait_s=REPORT_WAIT_S):
        rows = [row for label, entry in recipe.contenders.items() if (row := _row(label, entry, out))]
        write_report(rows, out, recipe.recipe)
    return rows


def _evaluation(recipe: CompareRecipe) -> EvalRecipe:
    evaluation = load_config(EvalRecipe, resources.find("configs", recipe.recipe))
    if evaluation.overrides:
        raise ConfigError(f"recipe {recipe.recipe}: has overrides of its own (overrides); give them to the contenders")
    return evaluation if recipe.data_root is None else replace(evaluation, data_root=recipe.data_root)


def _measure(
    label: str, entry: Contender, evaluation: EvalRecipe, datasets: Any, images: int, out: Path, progress: bool
) -> None:
    """Evaluate one contender and write what it costs; either is left as it is where it was done before."""
    settings = replace(evaluation, model=entry.model, overrides=dict(entry.overrides))
    predictor = load(entry.model, device=settings.device, dtype=settings.dtype)
    predictor.overrides = settings.overrides
    folder = out / label
    evaluate(predictor, datasets, settings, folder, progress=progress)
    about = {"weights": model_identity(predictor), "overrides": settings.overrides, "images": images}
    path = folder / COST
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("about") == about:
        return
    cost = measure_cost(predictor, datasets, images, settings.max_new_tokens)
    draw_kept(predictor, datasets, images, folder / KEPT)
    parameters = predictor.model.num_parameters()
    write_json(path, {"about": about, "parameters": parameters, **cost, "measured": surroundings(1, 1)})


def _row(label: str, entry: Contender, out: Path) -> dict[str, Any] | None:
    """What is known of a contender; None before it is measured."""
    metrics, cost = out / label / "metrics.json", out / label / COST
    if not (metrics.is_file() and cost.is_file()):
        return None
    results = json.loads(metrics.read_text(encoding="utf-8"))["results"]
    return {
        "label": label,
        "model": entry.model,
        "overrides": dict(entry.overrides),
        "training": [_trained(Path(run)) for run in entry.runs],
        "results": results,
        "cost": json.loads(cost.read_text(encoding="utf-8")),
    }


def _trained(run: Path) -> dict[str, Any]:
    """Steps and seconds of a run, from its metrics.json; its name alone where that is not there."""
    path = run / "metrics.json"
    told = json.loads(path.read_text(encoding="utf-8"))["training"] if path.is_file() else {}
    budget = told.get("budget", {})
    return {"run": str(run)} | {name: told[name] for name in ("steps", "seconds") if name in told} | budget


def write_report(rows: Sequence[dict[str, Any]], out: Path, recipe: str) -> None:
    """Write ``comparison.json``, ``comparison.md`` and ``comparison.png`` below ``out``."""
    write_json(out / REPORT, {"recipe": recipe, "contenders": list(rows)})
    write_whole(out / TABLE, table_of(rows))
    draw_figure(rows, out / FIGURE)
