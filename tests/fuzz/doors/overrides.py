"""Overrides ``key=value`` on the command line."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import yaml
from tests.fuzz.cases import Case, Printed
from tests.fuzz.doors.recipes import evaluation_recipe, odd_yaml_value, training_recipe

SHARE = 6


def prepare(base: Path) -> None:
    """Nothing: recipes name the shared world and model."""


def _paths(tree: dict[str, Any], head: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        found.append(head + key)
        if isinstance(value, dict):
            found += _paths(value, f"{head}{key}.")
    return found


def make(rng: Random, folder: Path, base: Path) -> Case:
    """One or two overrides of odd keys or values."""
    kind = rng.choice(["train", "eval"])
    tree = training_recipe(base) if kind == "train" else evaluation_recipe(base)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    given = []
    for _ in range(rng.randint(1, 2)):
        key = rng.choice(_paths(tree)) if rng.random() < 0.85 else rng.choice(
            ["", ".", "a..b", "dataset.", " model ", "MODEL", "training.x", "dataset.new.limit", "model.x", "data[0]"]
        )  # fmt: skip
        given.append(f"{key}={odd_yaml_value(rng)}" if rng.random() < 0.95 else key or "x")
    argv = rng.choice([["check"], ["show"], ["data", "stats"]]) + ["./recipe.yaml", *given]
    if kind == "eval" and rng.random() < 0.6:
        argv = ["eval", "./recipe.yaml", "--out", "out", *given]
    keys = tuple(text.split("=")[0].split(".")[0] for text in given if text.split("=")[0].strip())
    names = (*keys, "command line", "recipe.yaml", "out", "annotations/")
    return Case(argv=argv, what=f"{kind}: {given}", names=names, writes=("out",), check=lambda _: check(argv, given, _))


def check(argv: list[str], given: list[str], printed: Printed) -> list[str]:
    """What is shown is valid YAML and has the last value of a plain text."""
    if argv[0] != "show":
        return []
    yaml.safe_load(printed.out)
    return []
