"""Evaluation on the way: the same code as ``ullava eval``, on the model as it is at a step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ullava.config.schema import TrainRecipe
from ullava.data.build import build_dataset
from ullava.inference.predictor import Predictor
from ullava.training.folder import RunFolder


class Monitor:
    """``monitor(model, step)`` evaluates every ``eval_dataset`` of the recipe and returns figures by name.

    The datasets are opened at once, so that a wrong entry stops the run before it trains. Predictions and metrics of
    a step go to ``eval/step-N`` of the run folder; ``last_results`` are the rows of metrics.json.
    """

    def __init__(self, recipe: TrainRecipe, processor: Any, folder: RunFolder) -> None:
        self.recipe = recipe
        self.processor = processor
        self.folder = folder
        self.last_step = -1
        self.last_results: list[Mapping[str, Any]] = []
        root = Path(recipe.data_root)
        self.datasets = {name: build_dataset(name, entry, root) for name, entry in recipe.eval_dataset.items()}

    def __call__(self, model: nn.Module, step: int) -> dict[str, float]:
        """Evaluate ``model``; it is left in eval mode (a training step wakes it)."""
        from ullava.evaluation.protocol import evaluate_dataset

        predictor = Predictor(model, self.processor, name=f"{self.recipe.model} at step {step}")
        self.last_results = [evaluate_dataset(predictor, dataset) for dataset in self.datasets.values()]
        self.last_step = step
        return _figures(self.last_results)


def _figures(results: list[Mapping[str, Any]]) -> dict[str, float]:
    """Flatten the rows of metrics.json: ``<dataset>_<metric>``."""
    return {
        f"{row['dataset']}_{name}": float(value)
        for row in results
        for name, value in row["metrics"].items()
        if isinstance(value, (int, float))
    }
