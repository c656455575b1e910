"""Every training recipe through the real command line, for two steps; test_train_ci.py is about learning."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from conftest import Train, losses

ROOT = Path(__file__).resolve().parents[2]
# Recipes at full size need weights that nobody has here; their small twins train in test_two_stages.py.
RECIPES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "configs" / "train").glob("*.yaml")
    if not path.stem.startswith("ullava_")
)


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 2


FIRST_STAGE_OF = {"configs/train/tiny.yaml": "configs/train/tiny_stage1.yaml"}
"""Recipes that begin where another one ends."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_trains(recipe: str, train: Train) -> None:
    small = ["training.per_device_train_batch_size=2"]
    begin = []
    if recipe in FIRST_STAGE_OF:
        begin = [f"init={train(FIRST_STAGE_OF[recipe], 1, *small) / 'model'}"]
    run = train(recipe, 2, *small, *begin)
    assert len(losses(run)) == 2
    assert all(math.isfinite(loss) for loss in losses(run))
    assert (run / "model" / "model.safetensors").is_file()
