"""Which private names of Hugging Face's libraries the training touches: those that docs/training_hooks.md lists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.state import GradientState
from peft import PeftModel
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import ullava.training

PACKAGE = Path(ullava.training.__file__).parent
LIST = Path(__file__).parents[3] / "docs" / "training_hooks.md"
THEIRS = (
    Accelerator,
    GradientState,
    PeftModel,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name.strip("_") != ""


def is_theirs(name: str) -> bool:
    return any(hasattr(kind, name) for kind in THEIRS)


def private_names(tree: ast.AST) -> Iterator[str]:
    """Every private name that a module defines, takes as an argument, reads, sets, imports or asks for as text."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os")):
                pass
            case ast.FunctionDef(name=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.keyword(arg=str(name)) | ast.alias(name=name):
                yield name
            case ast.Call(func=ast.Name(id=asked), args=[_, ast.Constant(value=str(name)), *_]) if asked.endswith(
                "attr"
            ):
                yield name


def own_names(tree: ast.AST) -> Iterator[str]:
    """Private names that the training's own classes and modules have: methods, functions, attributes of self."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


def touched(sources: dict[str, str]) -> dict[str, set[str]]:
    """Return {name: modules} of private names that are Hugging Face's, or at least nobody's here."""
    trees = {module: ast.parse(text) for module, text in sources.items()}
    own = {name for tree in trees.values() for name in own_names(tree)}
    found: dict[str, set[str]] = {}
    for module, tree in trees.items():
        for name in private_names(tree):
            if is_private(name) and (is_theirs(name) or name == "_internal_call" or name not in own):
                found.setdefault(name, set()).add(module)
    return found


def listed() -> set[str]:
    return set(re.findall(r"^\| `(_\w+)`", LIST.read_text(encoding="utf-8"), flags=re.MULTILINE))


def test_each_private_name_is_listed_with_its_reason() -> None:
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    assert len(sources) > 20
    found = touched(sources)
    assert found.keys() == listed(), found


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("class A(B):\n    def _save_checkpoint(self): ...", "_save_checkpoint"),
        ("trainer._initial_global_step", "_initial_global_step"),
        ("state._set_sync_gradients(False)", "_set_sync_gradients"),
        ("model._is_distributed_loading_by_transformers = True", "_is_distributed_loading_by_transformers"),
        ("from transformers.trainer import _is_peft_model", "_is_peft_model"),
        ("getattr(trainer, '_tr_loss')", "_tr_loss"),
        ("save(_internal_call=True)", "_internal_call"),
    ],
)
def test_the_count_sees_every_way_of_touching(line: str, name: str) -> None:
    own = "class Own:\n    def _look(self):\n        self._names = {}\n        return self._names\n"
    assert set(touched({"own.py": own, "other.py": line})) == {name}
