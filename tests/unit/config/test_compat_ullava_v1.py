"""``compat: ullava_v1``: one key for all of u-LLaVA's old ways, and where the code of them is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ullava
from ullava.config.load import dump_config, hints, parse_text
from ullava.config.schema import EvalRecipe, HeadsConfig, ModelConfig, TrainRecipe
from ullava.errors import ConfigError

PACKAGE = Path(ullava.__file__).parent

MODEL = """
name: m
language: {path: a}
tokenizer: a
vision: {tower: {path: b}}
mask: {sam: {path: c}}
"""
HEADS = "{mask: {sam: {path: c}}}"
TRAIN = """
model: m
stage: ground
dataset: {a: {}, b: {frames: head_tail, foreground: half}}
eval_dataset: {c: {frames: uniform}}
"""


def test_a_model_takes_all_old_ways() -> None:
    model = parse_text(ModelConfig, "compat: ullava_v1" + MODEL)
    assert model.marker_gradient_only and model.text.as_released and model.text.answer == "name_last"
    assert (model.box.frame, model.box.sigmoid) == ("padsq", False)
    plain = parse_text(ModelConfig, MODEL)
    assert not plain.marker_gradient_only and not plain.text.as_released and plain.box.frame == "norm"


def test_a_key_that_is_there_keeps_its_value() -> None:
    kept = "marker_gradient_only: false\ntext: {as_released: false, template: conv_sep2}\nbox: {sigmoid: true}"
    model = parse_text(ModelConfig, f"compat: ullava_v1{MODEL}{kept}")
    assert not model.marker_gradient_only and not model.text.as_released and model.text.template == "conv_sep2"
    assert model.text.answer == "name_last" and (model.box.frame, model.box.sigmoid) == ("padsq", True)


def test_a_box_head_that_u_llava_has_not_stays_as_it_is() -> None:
    box = "box: {kind: grounding_dino_query, detector: {path: d}}"
    assert parse_text(ModelConfig, f"compat: ullava_v1{MODEL}{box}").box.frame == "norm"


def test_a_training_recipe_takes_all_old_ways() -> None:
    recipe = parse_text(TrainRecipe, f"compat: ullava_v1{TRAIN}loss: {{ce: 2.0}}\nheads: {HEADS}")
    assert recipe.loss is not None and recipe.loss.box_divide_twice and recipe.loss.ce == 2.0
    assert [(entry.frames, entry.foreground) for entry in recipe.dataset.values()] == [
        ("original_uniform", "white"),
        ("original_head_tail", "half"),
    ]
    assert recipe.eval_dataset["c"].frames == "original_uniform"
    assert isinstance(recipe.reinit_heads, HeadsConfig) and recipe.reinit_heads.text.as_released
    assert recipe.reinit_heads.box.frame == "padsq"
    inherited = parse_text(TrainRecipe, f"compat: ullava_v1{TRAIN}")
    assert inherited.loss is None, "the weights of init are kept"


def test_a_recipe_passes_the_switch_to_the_model_that_it_spells_out() -> None:
    system = "system:\n" + "".join(f"  {line}\n" for line in MODEL.strip().splitlines())
    recipe = parse_text(TrainRecipe, f"compat: ullava_v1{TRAIN}{system}")
    assert recipe.system is not None and recipe.system.marker_gradient_only and recipe.system.text.as_released
    other = parse_text(TrainRecipe, f"compat: ullava_v1{TRAIN}{system}  compat: none\n")
    assert other.system is not None and not other.system.marker_gradient_only
    alone = parse_text(TrainRecipe, f"{TRAIN}{system}  compat: ullava_v1\n")
    assert alone.system is not None and alone.system.marker_gradient_only
    assert alone.dataset["a"].frames == "uniform"


def test_an_evaluation_takes_all_old_ways() -> None:
    recipe = parse_text(EvalRecipe, "dataset: {a: {}}", overrides=["compat=ullava_v1"])
    assert recipe.counting == "as_released" and recipe.dataset["a"].foreground == "white"
    assert recipe.dataset["a"].frames == "original_uniform"


@pytest.mark.parametrize("cls", [TrainRecipe, EvalRecipe])
def test_what_was_expanded_reads_back_equal(cls: type[TrainRecipe | EvalRecipe]) -> None:
    text = TRAIN if cls is TrainRecipe else "\ndataset: {a: {frames: head_tail}}"
    recipe = parse_text(cls, "compat: ullava_v1" + text)
    assert parse_text(cls, dump_config(recipe)) == recipe


def test_a_misspelt_switch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"compat: 'ullava_1' is not one of 'none', 'ullava_v1'; did you mean"):
        parse_text(ModelConfig, "compat: ullava_1" + MODEL)
    with pytest.raises(ConfigError, match="text: expected keys with values"):
        parse_text(ModelConfig, f"compat: ullava_v1{MODEL}text: conv_sep2")


def test_single_keys_are_taken_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(MODEL + "marker_gradient_only: true\ntext: {as_released: true}\n")
    assert hints(ModelConfig, path) == [
        f"{path}:7: marker_gradient_only: one of u-LLaVA's old ways; compat: ullava_v1 brings them all",
        f"{path}:8: text.as_released: one of u-LLaVA's old ways; compat: ullava_v1 brings them all",
    ]
    path.write_text("compat: ullava_v1" + MODEL + "marker_gradient_only: true\n")
    assert hints(ModelConfig, path) == []


SWITCHES = "as_released|marker_gradient_only|box_divide_twice"
FACTS = {
    "cli/check.py", "config/schema.py", "config/text.py", "config/old_model.py", "evaluation/scorers.py",
    "modeling/construction/build.py", "modeling/configuration.py", "modeling/construction/saved_folder.py",
    "modeling/processing/processor.py", "modeling/processing/tokenizing.py", "modeling/cores/native_processor.py",
    "training/optim/objective.py", "training/loop/init.py",
}  # fmt: skip
"""Files outside of ``*_ullava_v1.py`` that hand a switch on, or choose by it when something is made."""


def test_defects_are_out_of_the_main_path() -> None:
    """No branch on a switch but the one that chooses: an object of a table, or one of two modules."""
    named = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.stem.endswith("_ullava_v1"):
            continue
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if re.search(SWITCHES, line)]
        if lines:
            named[path.relative_to(PACKAGE).as_posix()] = lines
    assert named.keys() <= FACTS, named
    branches = [line.strip() for lines in named.values() for line in lines if re.match(r"\s*(if|elif|while)\b", line)]
    assert branches == []
    assert len(list(PACKAGE.rglob("*_ullava_v1.py"))) >= 10
