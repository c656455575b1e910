"""Every training recipe through the real command line, for two steps; test_train_ci.py is about learning."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tests.recipes.conftest import Train, losses

from ullava.config.load import load_config
from ullava.config.schema import TrainRecipe

ROOT = Path(__file__).resolve().parents[2]
# Recipes at full size need weights that nobody has here; their small twins train in test_two_stages.py and beside it.
# Those of tiny_clips begin at drawn clips with masks, which test_clip_recipes.py has.
RECIPES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "configs" / "train").glob("*.yaml")
    if path.stem.startswith(("tiny", "ci")) and not path.stem.startswith("tiny_clips")
)


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 2


BEGINS_WHERE = {
    "configs/train/tiny_2.yaml": "configs/train/tiny_1.yaml",
    "configs/train/tiny_3.yaml": "configs/train/tiny_2.yaml",
    "configs/train/tiny_4.yaml": "configs/train/tiny_1.yaml",
    "configs/train/tiny_5.yaml": "configs/train/tiny_1.yaml",
    "configs/train/tiny_6.yaml": "configs/train/tiny_1.yaml",
    "configs/train/tiny_7.yaml": "configs/train/tiny_1.yaml",
    "configs/train/tiny.yaml": "configs/train/tiny_1.yaml",
}
"""Recipes that begin where another one ends; the first stage does for the later ones, whose start is the same model."""


EARLIER = {f"configs/train/tiny_{number}.yaml" for number in range(2, 7)}
"""The stages between the first and the last, which differ from these in rates and shares alone."""


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=[pytest.mark.exhaustive] if name in EARLIER else []) for name in RECIPES]
)
def test_recipe_trains(recipe: str, train: Train, films: Path) -> None:
    run = _run(recipe, 2, train, films)
    assert len(losses(run)) == 2
    assert all(math.isfinite(loss) for loss in losses(run))
    assert (run / "model" / "model.safetensors").is_file()


def _run(recipe: str, steps: int, train: Train, films: Path) -> Path:
    """Train for some steps; where the recipe begins with another one's end, that one first, for a step."""
    small = ["training.per_device_train_batch_size=2"]
    if recipe in BEGINS_WHERE:
        small.append(f"init={_run(BEGINS_WHERE[recipe], 1, train, films) / 'model'}")
    entries = load_config(TrainRecipe, ROOT / recipe).dataset
    small += [f"dataset.{name}.data_root={films}" for name, entry in entries.items() if entry.data_root is not None]
    return train(recipe, steps, *small)
