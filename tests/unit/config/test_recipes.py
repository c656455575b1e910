"""Telling what a YAML file is for, and that no text whatever breaks the loader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ullava.config.load import dump_config, parse_text, place
from ullava.config.recipes import config_class
from ullava.config.schema import DatasetConfig, EvalRecipe, ModelConfig, TrainRecipe
from ullava.errors import ConfigError

Write = Callable[[str, str], Path]
PIECES = [
    "model",
    "dataset",
    ": ",
    "\n",
    "  ",
    "{",
    "}",
    "[",
    "]",
    "- ",
    "'",
    '"',
    "&a",
    "*a",
    "!t",
    "2e-5",
    "no",
    "\t",
    "#",
    "|",
]


@pytest.mark.parametrize(
    ("name", "text", "cls"),
    [
        ("any/model.yaml", "name: x", ModelConfig),
        ("any/dataset.yaml", "name: x", DatasetConfig),
        ("train.yaml", "stage: align", TrainRecipe),
        ("almost.yaml", "training: {}", TrainRecipe),
        ("eval.yaml", "dataset: {}", EvalRecipe),
        ("over.yaml", "extends: base.yaml\nmodel: x", TrainRecipe),
        ("deepspeed/zero2.yaml", "zero_optimization: {stage: 2}", None),
    ],
)
def test_files_are_told_apart_by_name_and_keys(write: Write, name: str, text: str, cls: type | None) -> None:
    write("base.yaml", "stage: align\n")
    assert config_class(write(name, text)) is cls


def test_a_key_is_found_by_its_line(write: Write) -> None:
    path = write("a.yaml", "model: x\ndataset:\n  one: {}\n  two:\n    split: val\n")
    assert place(path, "model") == f"{path}:1"
    assert place(path, "dataset.two.split") == f"{path}:5"
    assert place(path, "dataset.three") == f"{path}:2"
    assert place(path.with_name("missing.yaml"), "model") == str(path.with_name("missing.yaml"))


@settings(max_examples=200)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=30).map("".join)))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        config = parse_text(EvalRecipe, text, "f.yaml")
    except ConfigError as error:
        assert error.problems
        assert all(problem.startswith("f.yaml") for problem in error.problems)
    else:
        assert parse_text(EvalRecipe, dump_config(config)) == config


@settings(max_examples=100)
@given(st.text(max_size=40))
def test_any_override_is_read_or_refused(text: str) -> None:
    try:
        parse_text(EvalRecipe, "dataset: {a: {}}", overrides=[text])
    except ConfigError as error:
        assert all(problem.startswith("command line: ") for problem in error.problems)
