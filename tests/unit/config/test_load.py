"""The strict YAML loader: what it accepts, and that every refusal says where, what and what instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from ullava.config.load import dump_config, load_config, parse_text
from ullava.config.schema import EvalRecipe, TrainRecipe
from ullava.errors import ConfigError

Write = Callable[[str, str], Path]


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1.0
    kind: Literal["sine", "cosine", "off"] = "sine"


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    steps: int = 3
    quick: bool = False
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    table: dict[str, Inner] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    pair: tuple[int, ...] = ()
    either: int | str = 0
    free: dict[str, Any] = field(default_factory=dict)
    where: Path = Path(".")


@dataclass(frozen=True, kw_only=True)
class Checked:
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("'low' must not exceed 'high'")


def problems_of(text: str, cls: type = Outer, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_text(cls, text, "f.yaml", overrides)
    return list(caught.value.problems)


def test_reads_every_kind_of_field() -> None:
    config = parse_text(
        Outer,
        """
name: a
steps: 7
quick: true
inner: {rate: 2, kind: cosine}
maybe: {rate: 0.5}
table: {refcoco+: {kind: sine}}
words: [x, "no"]
pair: [1, 2]
either: many
free: {learning_rate: 2e-5, deep: {list: [1, null, on]}, day: 2024-01-31, time: 1:30}
where: a/b
""",
    )
    assert config == Outer(
        name="a",
        steps=7,
        quick=True,
        inner=Inner(rate=2.0, kind="cosine"),
        maybe=Inner(rate=0.5),
        table={"refcoco+": Inner()},
        words=["x", "no"],
        pair=(1, 2),
        either="many",
        free={
            "learning_rate": 2e-5,
            "deep": {"list": [1, None, True]},
            "day": "2024-01-31",
            "time": "1:30",
        },
        where=Path("a/b"),
    )
    assert isinstance(config.inner.rate, float)


@pytest.mark.parametrize("written", ["2e-5", '"2e-5"', "2.0e-5", "0.00002", "2E-05", "+2e-5"])
def test_numbers_that_yaml_1_1_reads_as_words_are_floats(written: str) -> None:
    assert parse_text(Inner, f"rate: {written}").rate == pytest.approx(2e-5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nstepz: 3", "f.yaml:2: stepz: unknown key; did you mean 'steps'?"),
        ("steps: 3", "f.yaml:1: name: required key is missing"),
        ("name: a\n\ninner:\n  rat: 3", "f.yaml:4: inner.rat: unknown key; did you mean 'rate'?"),
        ("name: a\nname: b", "f.yaml:2: name: duplicate key, already given in line 1"),
        ("name: a\nfree:\n  x: 1\n  x: 2", "f.yaml:4: free.x: duplicate key, already given in line 3"),
        ("name: no", 'f.yaml:1: name: expected text, got no; write "no" if you mean the word'),
        ("name: 12", 'f.yaml:1: name: expected text, got 12; write "12" if you mean the word'),
        ("name:", "f.yaml:1: name: expected text, got nothing"),
        ("name: a\nsteps: true", "f.yaml:2: steps: expected a whole number, got true"),
        ("name: a\nsteps: 1.5", "f.yaml:2: steps: expected a whole number, got 1.5"),
        ("name: a\nsteps: many", "f.yaml:2: steps: expected a whole number, got 'many'"),
        ("name: a\nsteps: 1:30", "f.yaml:2: steps: expected a whole number, got '1:30'"),
        ("name: a\nquick: 1", "f.yaml:2: quick: expected true or false, got 1"),
        ("name: a\ninner: {rate: .nan}", "f.yaml:2: inner.rate: expected a number, got .nan"),
        ("name: a\ninner: {rate: true}", "f.yaml:2: inner.rate: expected a number, got true"),
        (
            "name: a\ninner: {kind: cosin}",
            "f.yaml:2: inner.kind: 'cosin' is not one of 'sine', 'cosine', 'off'; did you mean 'cosine'?",
        ),
        ("name: a\ninner: {kind: off}", 'f.yaml:2: inner.kind: YAML reads off as a truth value; write "off"'),
        ("name: a\ninner: 3", "f.yaml:2: inner: expected keys with values, got 3"),
        ("name: a\ntable: {x: 3}", "f.yaml:2: table.x: expected keys with values, got 3"),
        ("name: a\ntable: [x]", "f.yaml:2: table: expected keys with values, got a list"),
        ("name: a\nwords: x", "f.yaml:2: words: expected a list, got 'x'"),
        ("name: a\nwords:\n- x\n- 3", 'f.yaml:4: words[1]: expected text, got 3; write "3" if you mean the word'),
        ("name: a\neither: [1]", "f.yaml:2: either: expected a whole number or text, got a list"),
        ("name: a\nfree: {x: !!python/tuple [1]}", "f.yaml:2: free.x: the tag tag:yaml.org,2002:python/tuple"),
        ("name: a\nfree: {? [x] : 1}", "f.yaml:2: free: a key must be a word"),
        ("- a", "f.yaml:1: document: expected keys with values, got a list"),
        ("name: [a", "f.yaml:1: expected ',' or ']'"),
        ("name: a\n\tsteps: 3", "f.yaml:2: found character '\\t' that cannot start any token"),
        ("name: a\x07", "f.yaml:1: a character that YAML does not allow"),
        ("name: a\n---\nname: b", "f.yaml:2: but found another document"),
        ("name: &x a\nwords: [*x]", "f.yaml:2: aliases (*name) are not allowed here"),
        ("free: " + "[" * 60 + "]" * 60, "f.yaml:1: nested deeper than 32 levels"),
        ("name: a\nextends: missing.yaml", "f.yaml:2: extends: missing.yaml: no such file"),
    ],
)
def test_refusals_say_where_what_and_what_instead(text: str, expected: str) -> None:
    problems = problems_of(text)
    assert any(problem.startswith(expected) for problem in problems), problems


def test_all_problems_are_reported_at_once() -> None:
    problems = problems_of("nam: a\nsteps: x\ninner: {rate: y, kind: z}\nwords: [1, 2]")
    assert len(problems) == 7
    assert [problem.split(":")[1] for problem in problems] == ["1", "2", "3", "3", "4", "4", "1"]


def test_empty_text_lacks_the_required_keys() -> None:
    assert problems_of("") == ["f.yaml:1: name: required key is missing"]
    assert problems_of("# nothing\n") == ["f.yaml:1: name: required key is missing"]


def test_fields_that_contradict_each_other_are_told_with_their_place() -> None:
    assert problems_of("low: 3\nhigh: 1", Checked) == ["f.yaml:1: document: 'low' must not exceed 'high'"]


def test_overrides_are_yaml_and_reach_any_depth() -> None:
    config = parse_text(
        Outer,
        "name: a\nmaybe: null",
        overrides=[
            "steps=9",
            "inner.rate=1e-3",
            "table.new.kind=cosine",
            "words=[p, q]",
            "maybe.rate=3",
            "free.x.y=on",
        ],
    )
    assert (config.steps, config.inner.rate, config.words) == (9, 1e-3, ["p", "q"])
    assert config.table == {"new": Inner(kind="cosine")}
    assert config.maybe == Inner(rate=3.0)
    assert config.free == {"x": {"y": True}}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stepz=3", "command line: stepz: unknown key; did you mean 'steps'?"),
        ("steps", "command line: 'steps': expected key=value or key.sub=value"),
        ("=3", "command line: '=3': expected key=value or key.sub=value"),
        ("a..b=3", "command line: 'a..b=3': expected key=value or key.sub=value"),
        ("steps=x", "command line: steps: expected a whole number, got 'x'"),
        ("words=[1", "command line: words: cannot read the value '[1'"),
        ("name.sub=3", "command line: name.sub: there are no keys below a str (f.yaml:1)"),
        ("free={a: 1, a: 2}", "command line: free: "),
    ],
)
def test_wrong_overrides_are_refused(override: str, expected: str) -> None:
    problems = problems_of("name: a", overrides=(override,))
    assert len(problems) == 1
    assert problems[0].startswith(expected)


def test_a_file_may_extend_another_one(write: Write) -> None:
    write("base.yaml", "name: base\nsteps: 5\ninner: {rate: 4, kind: cosine}\nfree: {keep: 1, drop: 2}\n")
    path = write("sub/over.yaml", "extends: ../base.yaml\nname: over\ninner: {rate: 8}\nfree: {drop: null}\n")
    config = load_config(Outer, path)
    assert config == Outer(name="over", steps=5, inner=Inner(rate=8.0, kind="cosine"), free={"keep": 1})


def test_problems_of_an_extended_file_name_that_file(write: Write) -> None:
    base = write("base.yaml", "name: base\nstep: 5\n")
    path = write("over.yaml", "extends: base.yaml\nquick: maybe\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, path)
    assert caught.value.problems == (
        f"{base}:2: step: unknown key; did you mean 'steps'?",
        f"{path}:2: quick: expected true or false, got 'maybe'",
    )


def test_extending_goes_one_level_only(write: Write) -> None:
    write("a.yaml", "name: a\n")
    write("b.yaml", "extends: a.yaml\nname: b\n")
    path = write("c.yaml", "extends: b.yaml\n")
    with pytest.raises(ConfigError, match="only one level"):
        load_config(Outer, path)


def test_a_file_that_extends_itself_ends(write: Write) -> None:
    path = write("a.yaml", "extends: a.yaml\nname: a\n")
    with pytest.raises(ConfigError, match="only one level"):
        load_config(Outer, path)


def test_unreadable_files_are_config_errors(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    (tmp_path / "large.yaml").write_bytes(b"#" * (1 << 20) + b"\n")
    for name, reason in [
        ("missing.yaml", "no such file"),
        ("", "is a folder, not a file"),
        ("latin.yaml", "not UTF-8 text"),
        ("large.yaml", "a configuration has at most"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            load_config(Outer, tmp_path / name)


def test_dump_reads_back_equal() -> None:
    config = parse_text(Outer, "name: é\nmaybe: {rate: 1e-9}\npair: [3]\nfree: {a: {b: 2e-5}, c: 'no'}\nwords: ['1e5']")
    assert parse_text(Outer, dump_config(config)) == config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("batch_size=0", "command line: batch_size: has to be 1 or more, not 0"),
        ("dataset.a.portion=-0.5", "command line: dataset.a.portion: has to be above 0, not -0.5"),
        ("dataset.a.weight=0", "command line: dataset.a.weight: has to be above 0, not 0"),
        ("dataset.a.limit=0", "command line: dataset.a.limit: has to be 1 or more, not 0"),
    ],
)
def test_numbers_out_of_range_are_refused(override: str, expected: str) -> None:
    assert problems_of("dataset: {a: {}}", EvalRecipe, (override,)) == [expected]


def test_the_real_schemas_read_and_dump() -> None:
    recipe = parse_text(
        TrainRecipe,
        "model: m\nstage: ground\nlora: {r: 4}\ndataset: {a: {portion: 0.5}}\ntraining: {learning_rate: 2e-5}",
    )
    assert recipe.training == {"learning_rate": 2e-5}
    assert parse_text(TrainRecipe, dump_config(recipe)) == recipe
    evaluation = parse_text(EvalRecipe, "dataset: {a: {}}", overrides=["data_root=some/where"])
    assert evaluation.data_root == "some/where"
