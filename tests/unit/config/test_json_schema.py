"""JSON Schema of the YAML files: what editors are told agrees with what the loader takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ullava import resources
from ullava.cli.main import main
from ullava.config import nodes
from ullava.config.described import DOCUMENTS, keys_of
from ullava.config.json_schema import json_schema
from ullava.config.load import _untyped, parse_text
from ullava.config.old_form import is_old_form
from ullava.config.recipes import config_class
from ullava.config.schema import EvalRecipe
from ullava.errors import ConfigError, UserError

ROOT = Path(__file__).resolve().parents[3]
ABSENT = "jsonschema (extra docs) is not installed"
KINDS = {cls: document for document, cls in DOCUMENTS.items()}


def read(path: Path) -> nodes.Node:
    return nodes.parse(nodes.read_file(path), str(path), [])


SHIPPED = [
    (path.relative_to(ROOT).as_posix(), KINDS[cls])
    for kind in resources.KINDS
    for path in sorted((ROOT / kind).rglob("*.yaml"))
    if (cls := config_class(path)) is not None
]


@pytest.fixture(scope="module")
def problems_of() -> Any:
    """What a schema says of plain values."""
    jsonschema = pytest.importorskip("jsonschema", reason=ABSENT)
    validators = {document: jsonschema.Draft7Validator(json_schema(document)) for document in DOCUMENTS}
    return lambda document, values: [error.message for error in validators[document].iter_errors(values)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_schema_is_one(document: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason=ABSENT)
    jsonschema.Draft7Validator.check_schema(json_schema(document))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_schema_has_every_key_and_no_other(document: str) -> None:
    schema = json_schema(document)
    cls = DOCUMENTS[document]
    names = [key.name for key in keys_of(cls)]
    assert list(schema["definitions"][cls.__name__]["properties"]) == names
    assert list(schema["definitions"][f"{cls.__name__}.extends"]["properties"]) == [*names, "extends"]
    assert all(table["additionalProperties"] is False for table in schema["definitions"].values())
    references = set(_references(schema))
    assert references == {f"#/definitions/{name}" for name in schema["definitions"]}


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [found for inner in schema for found in _references(inner)]
    if not isinstance(schema, dict):
        return []
    own = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
    return own + [found for inner in schema.values() for found in _references(inner)]


def test_every_kind_of_file_is_shipped() -> None:
    assert len(SHIPPED) >= 100
    assert {document for _, document in SHIPPED} == set(DOCUMENTS)


def test_the_shipped_files_pass(problems_of: Any) -> None:
    found = {}
    for name, document in SHIPPED:
        root = read(ROOT / name)
        if not is_old_form(root) and (problems := problems_of(document, _untyped(root))):
            found[name] = problems
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{dataset: {}, batch_size: 0}",
        "{dataset: {}, batch_size: many}",
        "{dataset: {}, batch_size: 4.5}",
        "{dataset: {}, protocol: guess}",
        "{dataset: {}, protcol: generate}",
        "{dataset: {a: {portion: 0}}}",
        "{dataset: {a: {absent: 1.0}}}",
        "{dataset: {a: {augment: {crop_scale: 1}}}}",
        "{dataset: [a]}",
        "{dataset: null}",
        "{dataset: {a: null}}",
        "{dataset: {}, model: null}",
        "[]",
    ],
)
def test_what_the_loader_refuses_a_schema_refuses(text: str, problems_of: Any) -> None:
    with pytest.raises(ConfigError):
        parse_text(EvalRecipe, text)
    assert problems_of("eval", _untyped(nodes.parse(text, "text", [])))


@pytest.mark.parametrize(
    "text",
    [
        "{dataset: {}}",
        "{dataset: {a: {portion: 0.5, split: null}}}",
        "{dataset: {a: {}}, batch_size: 1, overrides: {granularity: 36}}",
    ],
)
def test_what_the_loader_takes_a_schema_takes(text: str, problems_of: Any) -> None:
    parse_text(EvalRecipe, text)
    assert problems_of("eval", _untyped(nodes.parse(text, "text", []))) == []


def test_a_file_that_extends_another_may_leave_out_and_take_away(problems_of: Any) -> None:
    assert problems_of("train", {"extends": "tiny.yaml", "dataset": {"a": None}, "loss": {"ce": None}}) == []
    assert problems_of("train", {"dataset": {"a": None}, "model": "tiny", "stage": "scratch"})
    assert problems_of("train", {"extends": "tiny.yaml", "loss": {"ce": -1}})
    assert problems_of("train", {"extends": "tiny.yaml", "los": {}})
    assert problems_of("train", {"extends": 3})


def test_show_prints_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--schema", "dataset"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema("dataset")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["show"], "error: say what to show: a name, the path of a YAML file, or --schema (see 'ullava show --help')"),
        (["show", "tiny", "--schema", "model"], "error: --schema model is that of a kind of file: leave out tiny"),
        (
            ["show", "--sizes", "--schema", "model"],
            "error: --schema model is that of a kind of file: leave out --sizes",
        ),
        (
            ["show", "--schema", "modle"],
            "error: argument --schema: 'modle' is not a valid choice; did you mean 'model'? (see 'ullava show --help')",
        ),
    ],
)
def test_show_says_what_it_needs(line: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 2
    assert capsys.readouterr().err.splitlines() == [says]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="no kind of file 'trian'; did you mean 'train'"):
        json_schema("trian")
