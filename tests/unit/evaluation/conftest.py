"""A small synthetic world and recipes on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ullava.config.load import parse_text
from ullava.config.schema import EvalRecipe
from ullava.data.loading.build import build_datasets
from ullava.data.readers.base import TaskDataset


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight drawn scenes with all their annotation files."""
    from ullava.synthetic.write import draw_world

    return draw_world(tmp_path_factory.mktemp("drawn") / "world", images=8, seed=11, split="seen", progress=False)


@pytest.fixture
def recipe(world: Path) -> Callable[..., EvalRecipe]:
    """A function that makes a recipe: entries as YAML, other settings by name."""

    def make(entries: str, **settings: Any) -> EvalRecipe:
        lines = [f"{key}: {value}" for key, value in settings.items()]
        text = "\n".join([f"data_root: {world}", f"dataset: {entries}", *lines])
        return parse_text(EvalRecipe, text)

    return make


def opened(recipe: EvalRecipe) -> dict[str, TaskDataset]:
    """The data sets of a recipe, by label."""
    return dict(zip(recipe.dataset, build_datasets(recipe.dataset, Path(recipe.data_root)), strict=True))


@pytest.fixture
def datasets() -> Callable[[EvalRecipe], dict[str, TaskDataset]]:
    """A function that opens the data sets of a recipe."""
    return opened
