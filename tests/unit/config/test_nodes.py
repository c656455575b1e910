"""YAML that is meant to hang, to fill memory or to hide something is refused in a moment, with its line."""

from __future__ import annotations

import time

import pytest

from ullava.config.load import parse_text
from ullava.config.schema import EvalRecipe
from ullava.errors import ConfigError

HEAD = "dataset: {a: {}}\n"


def refusal(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_text(EvalRecipe, text, "f.yaml")
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (HEAD + "batch_size: " + "1" * 100_000, "f.yaml:2: batch_size: expected a whole number, got '111"),
        (HEAD + "batch_size: " + "1" * 100_000 + "e", "f.yaml:2: batch_size: expected a whole number, got '111"),
        (HEAD + "batch_size: " + "1" * 100_000 + "e5", "f.yaml:2: batch_size: expected a whole number, got 111"),
        (HEAD + "batch_size: -." + "1" * 100_000 + "e", "f.yaml:2: batch_size: expected a whole number, got '-.11"),
        (HEAD + "batch_size: 1" + "_" * 100_000, "f.yaml:2: batch_size: expected a whole number"),
        (HEAD + "bootstrap: " + "59:" * 30_000 + "5", "f.yaml:2: bootstrap: expected a whole number"),
        ("[" * 100_000, "f.yaml:1: nested deeper than 32 levels"),
        ("- " * 100_000, "f.yaml:1: nested deeper than 32 levels"),
        ("[" + "1," * 400_000 + "]", "f.yaml:1: more than 50000 keys and values"),
        ("- 1\n" * 200_000, "f.yaml:50000: more than 50000 keys and values"),
        ("a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n", "f.yaml:2: aliases (*name) are not allowed here"),
        (HEAD + "device: cpu\ndevice: cuda\n", "f.yaml:3: device: duplicate key, already given in line 2"),
        ("dataset:\n\ta: {}\n", "f.yaml:2: found character '\\t'"),
        ("device: a\0b", "f.yaml:1: a character that YAML does not allow"),
        ("%YAML 1." + "1" * 5000 + "\n---\n" + HEAD, "f.yaml:1: is not YAML"),
        (HEAD + 'device: "\\UFFFFFFFF"', "f.yaml:2: is not YAML"),
        (HEAD + 'device: "\\0"', "f.yaml:2: device: holds a null character, or half of a character"),
        (HEAD + 'device: "\\ud800"', "f.yaml:2: device: holds a null character, or half of a character"),
        (HEAD + '"\\ud800": 1', "f.yaml:2: document: a key holds a null character"),
        ("? " + "a" * 900_000 + "\n: 1", "f.yaml:1: document: a key of 900000 characters"),
        (HEAD + "batch_size: !!int abc", "f.yaml:2: batch_size: 'abc' is not what its tag !!int says"),
        (HEAD + "batch_size: !!float 1e", "f.yaml:2: batch_size: '1e' is not what its tag !!float says"),
        (HEAD + "batch_size: !!seq 5", "f.yaml:2: batch_size: '5' is not what its tag !!seq says"),
    ],
)
def test_hostile_yaml_is_refused_at_once(text: str, reason: str) -> None:
    before = time.process_time()
    problems = refusal(text)
    assert time.process_time() - before < 10
    assert problems[0].startswith(reason)
    assert all(len(problem) < 400 for problem in problems)


def test_underscores_may_stand_anywhere_in_a_number() -> None:
    assert parse_text(EvalRecipe, HEAD + "batch_size: 1__0_").batch_size == 10


def test_a_tag_that_fits_says_nothing_new() -> None:
    recipe = parse_text(EvalRecipe, HEAD + "batch_size: !!int '5'\ndevice: !!str no")
    assert (recipe.batch_size, recipe.device) == (5, "no")
