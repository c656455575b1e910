"""requirements.txt (what was tested) and pyproject.toml (what should work) agree."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINNED = {
    canonicalize_name(requirement.name): requirement
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
    for requirement in [Requirement(line)]
}
CORE = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(text) for text in texts] for name, texts in PROJECT["optional-dependencies"].items()}
TESTED_EXTRAS = ("dev", "docs", "serve", "video")


def pinned_version(requirement: Requirement) -> str:
    return next(iter(PINNED[canonicalize_name(requirement.name)].specifier)).version


def test_every_requirement_is_exact() -> None:
    assert len(PINNED) >= 20
    for requirement in PINNED.values():
        assert [clause.operator for clause in requirement.specifier] == ["=="], requirement


@pytest.mark.parametrize("requirement", [*CORE, *(r for name in TESTED_EXTRAS for r in EXTRAS[name])], ids=str)
def test_the_tested_version_lies_in_the_range(requirement: Requirement) -> None:
    assert canonicalize_name(requirement.name) in PINNED, f"{requirement.name} is missing in requirements.txt"
    assert requirement.specifier.contains(pinned_version(requirement))


def test_every_pinned_package_is_declared() -> None:
    declared = {canonicalize_name(r.name) for r in [*CORE, *(r for extra in EXTRAS.values() for r in extra)]}
    assert sorted(set(PINNED) - declared) == []


def imported_names() -> dict[str, str]:
    """Every top-level name that the package imports, and one file that does."""
    found: dict[str, str] = {}
    for path in (ROOT / "ullava").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            found.update({name.split(".")[0]: path.relative_to(ROOT).as_posix() for name in names})
    return found


def test_every_import_of_the_package_is_declared() -> None:
    other_names = {"yaml": "pyyaml", "PIL": "pillow", "cv2": "opencv-python-headless", "vlmeval": "ms-vlmeval"}
    # These come with transformers, which needs them itself.
    other_names |= dict.fromkeys(("huggingface_hub", "tokenizers", "jinja2"), "transformers")
    declared = {canonicalize_name(r.name) for r in [*CORE, *(r for extra in EXTRAS.values() for r in extra)]}
    third_party = {n: p for n, p in imported_names().items() if n != "ullava" and n not in sys.stdlib_module_names}
    assert len(third_party) >= 8
    assert {n: p for n, p in third_party.items() if canonicalize_name(other_names.get(n, n)) not in declared} == {}


def test_the_set_up_installs_the_pinned_torch_in_the_same_command() -> None:
    script = (ROOT / "shells" / "setup.sh").read_text(encoding="utf-8")
    assert re.search(
        rf"^run \$pip torch=={re.escape(pinned_version(Requirement('torch')))} -r requirements.txt$", script, re.M
    )


def test_version_is_said_once() -> None:
    import ullava

    assert "version" in PROJECT["dynamic"]
    assert version("ullava") == ullava.__version__
