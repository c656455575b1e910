"""Reading a recipe for a command: its YAML, and that the model, datasets, splits and templates it names exist.

Done before anything heavy is imported, so that a misspelt name is told at once, with its file and line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ullava import resources
from ullava.config import old_form
from ullava.config.load import COMMAND_LINE, dump_config, hints, load_config, place
from ullava.config.schema import DatasetEntry, EvalRecipe, TrainRecipe
from ullava.errors import ConfigError, UserError
from ullava.hub import is_hub_id

R = TypeVar("R", TrainRecipe, EvalRecipe)


def read_recipe(cls: type[R], name: str, overrides: Sequence[str] = ()) -> tuple[R, Path]:
    """Return the recipe called ``name`` (a name of ``ullava list configs`` or a path) and its file.

    Raises:
        UserError: with every problem of the file, the overrides, or the names in it.
    """
    path = resources.find("configs", name)
    recipe = load_config(cls, path, overrides)
    problems = name_problems(recipe, path, overrides)
    if problems:
        raise ConfigError(problems)
    return recipe, path


def translation(recipe: TrainRecipe | EvalRecipe, path: Path) -> str:
    """Return what a recipe in u-LLaVA's own form became, to be printed; of one of our form the hints."""
    notes = old_form.explain(path)
    if notes is None:
        return "\n".join(f"hint: {line}" for line in hints(type(recipe), path))
    head = [f"{path} is written in u-LLaVA's form; as a recipe of ours it reads:", ""]
    body = [f"  {line}" for line in dump_config(recipe).splitlines()]
    return "\n".join([*head, *body, "", *(f"note: {note}" for note in notes)])


def sections(recipe: TrainRecipe | EvalRecipe) -> dict[str, Mapping[str, DatasetEntry]]:
    """Return the tables of datasets of a recipe by the key that they stand under."""
    found: dict[str, Mapping[str, DatasetEntry]] = {"dataset": recipe.dataset}
    if isinstance(recipe, TrainRecipe):
        found["eval_dataset"] = recipe.eval_dataset
    return found


def name_problems(recipe: TrainRecipe | EvalRecipe, path: Path, overrides: Sequence[str] = ()) -> list[str]:
    """Return one line for each name in ``recipe`` (read from ``path`` with ``overrides``) that means nothing."""
    problems: list[str] = []

    def where(key: str) -> str:
        written = [override.partition("=")[0] for override in overrides]
        by_hand = any(name == key or name.startswith(f"{key}.") for name in written)
        return f"{COMMAND_LINE if by_hand else place(path, key)}: {key}"

    if not Path(recipe.model).is_dir() and not is_hub_id(recipe.model):
        try:
            resources.find("models", recipe.model)
        except UserError as error:
            problems.extend(f"{where('model')}: {problem}" for problem in error.problems)
    for section, entries in sections(recipe).items():
        if not entries and section == "dataset":
            problems.append(f"{where(section)}: names no dataset")
        if {entry.weight is None for entry in entries.values()} == {True, False}:
            problems.append(f"{where(section)}: either all entries have a weight or none")
        for name, entry in entries.items():
            key = f"{section}.{name}"
            problems.extend(f"{where(key)}: {problem}" for problem in entry_problems(name, entry))
    return problems


def entry_problems(name: str, entry: DatasetEntry) -> list[str]:
    """Return what does not fit between an entry, its descriptor and its templates; opens no data."""
    from ullava.data.loading.descriptor import locate
    from ullava.data.readers.layouts import reader_of
    from ullava.data.readers.templates import find_templates

    dataset = entry.dataset or name
    try:
        located = locate(dataset, entry, Path("."))
        if located.template is not None:
            kind = reader_of(located.config.layout, located.task)
            find_templates(located.template, with_phrase=kind.has_phrase, may_point=kind.points)
    except UserError as error:
        return [problem.removeprefix(f"dataset {dataset}: ") for problem in error.problems]
    return []
