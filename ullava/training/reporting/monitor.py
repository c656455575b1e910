"""Evaluation on the way: the same code as ``ullava eval``, on the model as it is at a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ullava.config.schema import EvalRecipe, TrainRecipe
from ullava.data.loading.build import build_datasets
from ullava.evaluation.result_store import Shard
from ullava.evaluation.run import check_entries, evaluate
from ullava.inference.predictor import Predictor
from ullava.training.reporting.folder import RunFolder


class EvaluationMonitor:
    """``monitor(model, step)`` evaluates every ``eval_dataset`` of the recipe and returns figures by name.

    The datasets are opened at once, so that a wrong entry stops the run before it trains. Predictions and metrics of
    a step go to ``eval/step-N`` of the run folder; ``last_results`` are the rows of metrics.json. With several
    processes each does its share, and the first one alone returns figures.
    """

    def __init__(self, recipe: TrainRecipe, processor: Any, folder: RunFolder, batch_size: int) -> None:
        self.processor = processor
        self.folder = folder
        self.settings = EvalRecipe(
            model=recipe.model,
            data_root=recipe.data_root,
            dataset=recipe.eval_dataset,
            protocol=recipe.eval_protocol,
            batch_size=batch_size,
            max_new_tokens=recipe.max_new_tokens,
            bad_sample_budget=recipe.bad_sample_budget,
        )
        self.last_step = -1
        self.last_results: Sequence[Mapping[str, Any]] = ()
        check_entries(self.settings)
        built = build_datasets(recipe.eval_dataset, Path(recipe.data_root))
        self.datasets = dict(zip(recipe.eval_dataset, built, strict=True))

    def __call__(self, model: Any, step: int) -> dict[str, float]:
        """Evaluate ``model`` and leave it in eval mode (a training step wakes it)."""
        predictor = Predictor(model, self.processor, name=self.settings.model)
        report = evaluate(
            predictor,
            self.datasets,
            self.settings,
            self.folder.evaluation(step),
            shard=Shard.from_environment(),
            progress=False,
        )
        self.last_step = step
        self.last_results = report["results"] if report is not None else ()
        return _figures(self.last_results)


def _figures(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Flatten the rows of metrics.json: ``<dataset>_<metric>``."""
    return {
        f"{row['dataset']}_{name}": float(value)
        for row in results
        for name, value in row["metrics"].items()
        if isinstance(value, (int, float))
    }
