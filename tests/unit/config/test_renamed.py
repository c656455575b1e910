"""Keys, flags and commands of before: each is still read, with one line that names the new one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from ullava.config import comparison, renamed, schema, vision
from ullava.config.comparison import CompareRecipe
from ullava.config.load import load_config, parse_text, place
from ullava.config.nodes import Node, parse
from ullava.config.renamed import COMMANDS, FLAGS, KEYS, SAVED_KEYS, RenamedKey, current_arguments, current_keys
from ullava.config.schema import DatasetConfig, EvalRecipe, TrainRecipe
from ullava.errors import ConfigError

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "_told", set())


def text_of(dotted: str, value: str) -> str:
    """YAML of one key, ``*`` called ``one``."""
    keys = dotted.replace("*", "one").split(".")
    return "".join(f"{'  ' * depth}{key}:\n" for depth, key in enumerate(keys[:-1])) + (
        f"{'  ' * (len(keys) - 1)}{keys[-1]}: {value}\n"
    )


def at(node: Node, dotted: str) -> Node:
    for key in dotted.replace("*", "one").split("."):
        assert isinstance(node.value, dict)
        node = node.value[key]
    return node


@pytest.mark.parametrize("row", KEYS, ids=lambda row: f"{row.config} {row.old}")
def test_every_old_key_becomes_the_new_one(row: RenamedKey, capsys: pytest.CaptureFixture[str]) -> None:
    parent = row.old.rpartition(".")[0]
    new = f"{parent}.{row.new}" if parent else row.new
    for old_value, new_value in (row.values or {"7": "7"}).items():
        problems: list[str] = []
        root = current_keys(parse(text_of(row.old, old_value), "a.yaml", problems), row.config, problems)
        assert not problems and at(root, new).raw == new_value
        with pytest.raises(KeyError):
            at(root, row.old)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1, "the place is told once"
    depth = len(row.old.split("."))
    assert told[0].startswith(f"warning: a.yaml:{depth}: '") and told[0].count(f"{row.new}'") == 1


@pytest.mark.parametrize("row", KEYS, ids=lambda row: f"{row.config} {row.old}")
def test_every_new_key_is_one_of_the_schema(row: RenamedKey) -> None:
    """A new name that nobody reads would be a key that cannot be written at all."""
    classes = {name: kind for module in (schema, comparison, vision) for name, kind in vars(module).items()}
    kind: Any = classes[row.config]
    for key in row.parents():
        hints = get_type_hints(kind) if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__") else {}
        options = [hints[key], *getattr(hints[key], "__args__", ())] if key in hints else getattr(kind, "__args__", ())
        known = [option for option in options if hasattr(option, "__dataclass_fields__")]
        if not known and key != "*" and "*" not in row.old:
            return  # a free table (settings of a strategy, overrides)
        kind = known[0] if known else hints.get(key, kind)
    if hasattr(kind, "__dataclass_fields__"):
        assert row.new in get_type_hints(kind) and row.name() not in get_type_hints(kind)


def test_both_names_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match="a.yaml:2: licence: is the old name of license, which is given too"):
        parse_text(DatasetConfig, "license: MIT\nlicence: MIT\n", "a.yaml")


TRAIN = "model: m\nstage: ground\ndataset: {d: {}}\n"


def test_a_recipe_in_old_words_is_the_one_in_new_words(capsys: pytest.CaptureFixture[str]) -> None:
    old = (
        TRAIN + "attention: eager\ngrouping: modality_length\ntokenised: true\nheads: fresh_box\n"
        "optimizer: {rates: {box head: 1.0e-4}}\nvision: {gamma: 0.5, tau: 2.0}\n"
    )
    new = (
        TRAIN + "attn_implementation: eager\ngroup_by_modality_length: true\npretokenized: true\nreinit_heads: box\n"
        "optimizer: {learning_rates: {box head: 1.0e-4}}\nvision: {top_p: 0.5, temperature: 2.0}\n"
    )
    assert parse_text(TrainRecipe, old) == parse_text(TrainRecipe, new)
    told = capsys.readouterr().err
    assert "warning: text:4: 'attention' is called 'attn_implementation' now" in told and told.count("\n") == 7
    heads = "heads: {mask: {sam: {path: sam}}, aspect: crop}\n"
    assert parse_text(TrainRecipe, TRAIN + heads).reinit_heads.image_aspect_ratio == "crop"  # type: ignore[union-attr]


def test_overrides_may_use_old_names(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = parse_text(TrainRecipe, TRAIN, overrides=("heads=fresh", "grouping=none", "optimizer.rates.x=1e-3"))
    assert (recipe.reinit_heads, recipe.group_by_modality_length) == ("all", False)
    assert recipe.optimizer.learning_rates == {"x": 1e-3}
    shown = "warning: command line: 'optimizer.rates' is called 'optimizer.learning_rates' now"
    assert shown in capsys.readouterr().err
    found = parse_text(EvalRecipe, "dataset: {d: {}}\nforce: {granularity: 4}\n", overrides=("force.gamma=0.5",))
    assert found.overrides == {"granularity": 4, "top_p": 0.5}
    compared = parse_text(CompareRecipe, "recipe: r\npictures: 3\ncontenders: {a: {model: m, force: {gamma: 1.0}}}\n")
    assert (compared.images, compared.contenders["a"].overrides) == (3, {"top_p": 1.0})


def test_old_and_new_files_extend_each_other(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(TRAIN + "attention: eager\nheads: fresh\n", encoding="utf-8")
    child = tmp_path / "child.yaml"
    child.write_text("extends: base.yaml\nattn_implementation: sdpa\n", encoding="utf-8")
    recipe = load_config(TrainRecipe, child)
    assert (recipe.attn_implementation, recipe.reinit_heads) == ("sdpa", "all")
    assert place(child, "reinit_heads") == f"{tmp_path / 'base.yaml'}:5"


@pytest.mark.parametrize(
    ("command_words", "old", "new"),
    [(command, old, new) for command, flags in FLAGS.items() for old, new in flags.items()],
)
def test_every_old_flag_is_read(command_words: str, old: str, new: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = command_words.split()
    assert current_arguments([*first, old, "x", f"{old}=y"]) == [*first, new, "x", f"{new}=y"]
    assert capsys.readouterr().err.count(f"warning: command line: '{old}' is called '{new}' now") == 1
    assert current_arguments(["train", old]) == ["train", old], "other commands never had it"


@pytest.mark.parametrize(("old", "new"), COMMANDS.items())
def test_every_old_command_is_read(old: str, new: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert current_arguments([*old.split(), "--out", "o"]) == [*new.split(), "--out", "o"]
    assert f"'{old}' is called '{new}' now" in capsys.readouterr().err


def test_draw_and_synth_are_one_command(command: Command, tmp_path: Path) -> None:
    for name in ("synth", "draw"):
        code, out, _ = command("data", name, "--out", str(tmp_path / name), "--images", "2", "--seed", "3")
        assert code == 0 and "2 images" in out
    files = sorted(path.relative_to(tmp_path / "synth") for path in (tmp_path / "synth").rglob("*") if path.is_file())
    assert len(files) > 8
    for file in files:
        assert (tmp_path / "synth" / file).read_bytes() == (tmp_path / "draw" / file).read_bytes()


def test_saved_files_of_before_are_read() -> None:
    assert set(SAVED_KEYS) == {"aspect", "hidden_layer", "merge"}
    shipped = Path(__file__).resolve().parents[3] / "models" / "tiny" / "weights"
    for name in ("config.json", "processor_config.json"):
        table = json.loads((shipped / name).read_text(encoding="utf-8"))
        assert "aspect" in table, "the shipped weights were saved by the old names, and are not rewritten"
        current = renamed.current_saved(table)
        assert current["image_aspect_ratio"] == table["aspect"] and "aspect" not in current
        assert renamed.current_saved(current) == current
    slime = {"vision_settings": {"gamma": 0.9, "tau": 1.0, "heads": 2}}
    assert renamed.current_saved(slime) == {"vision_settings": {"top_p": 0.9, "temperature": 1.0, "heads": 2}}
