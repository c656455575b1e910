"""What may and may not lie where, and what no file of the project may say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import datasets as hf_datasets
import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA_FOLDERS = ("models", "datasets", "configs", "shells")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 100
MAX_SCRIPT_LINES = 40
LIBRARY_NAMES = {"datasets", "models", "evaluate", "transformers", "torch", "ullava"}
VAGUE_NAMES = {"utils", "util", "misc", "common", "tools", "helpers", "base_model"}
# Written in pieces, so that this file does not contain what it forbids.
FORBIDDEN_CODE = {
    "device word": re.compile(r"\.cuda" + r"\(\)|empty_" + "cache"),
    "bare except": re.compile(r"^\s*except\s*:", re.MULTILINE),
    "swallowed exception": re.compile(r"except (Base)?Exception[^\n]*:\s*\n?\s*pass\b"),
    "unfinished": re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|NotImplemented" + "Error"),
    "machine path": re.compile(r"(?<![\w.<>])/(tmp|work|root|home|mnt|opt)/" + r"\w"),
}


def files(*suffixes: str) -> list[Path]:
    """Every file of the project (with one of the suffixes, if any are given): what git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout", allow_module_level=True)
    found = {ROOT / name for name in listed.stdout.decode().split("\0") if name}
    return sorted(path for path in found if path.is_file() and (not suffixes or path.suffix in suffixes))


PYTHON = files(".py")
PACKAGE = [path for path in PYTHON if ROOT / "ullava" in path.parents]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_is_a_project_to_check() -> None:
    assert len(PACKAGE) >= 60
    assert len(PYTHON) - len(PACKAGE) >= 20


@pytest.mark.parametrize("folder", DATA_FOLDERS)
def test_data_folders_hold_no_python(folder: str) -> None:
    assert (ROOT / folder / "README.md").is_file()
    assert [name_of(path) for path in PYTHON if ROOT / folder in path.parents] == []


@pytest.mark.parametrize("folder", [*DATA_FOLDERS, "evaluation"])
def test_the_first_line_of_a_folder_readme_says_what_belongs_there(folder: str) -> None:
    first = (ROOT / folder / "README.md").read_text(encoding="utf-8").splitlines()[0]
    assert "the code is in ullava/" in first


def test_our_datasets_folder_does_not_hide_the_library() -> None:
    code = "import datasets, sys; print(datasets.__file__)"
    from_root = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for found in (Path(from_root.stdout.strip()), Path(str(hf_datasets.__file__))):
        assert found.name == "__init__.py"
        assert ROOT / "datasets" not in found.parents


def test_no_script_hides_a_library() -> None:
    scripts = [path for path in PYTHON if path.parent in (ROOT, ROOT / "evaluation")]
    assert len(scripts) >= 5
    assert [name_of(path) for path in scripts if path.stem in LIBRARY_NAMES] == []


def test_scripts_are_thin() -> None:
    scripts = sorted((ROOT / "evaluation").glob("*.py"))
    assert {path.name for path in scripts} >= {"eval_res.py", "eval_rec.py", "eval_salient.py", "inference.py"}
    assert [name_of(path) for path in scripts if len(path.read_text().splitlines()) > MAX_SCRIPT_LINES] == []


def test_names_say_what_is_inside() -> None:
    parts = {(part, name_of(path)) for path in PYTHON for part in path.relative_to(ROOT).with_suffix("").parts}
    assert sorted(name for part, name in parts if part in VAGUE_NAMES) == []


def test_test_files_have_unique_names() -> None:
    names = [path.name for path in PYTHON if path.name.startswith("test_")]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


@pytest.mark.parametrize("reason", FORBIDDEN_CODE)
def test_code_does_not_contain(reason: str) -> None:
    found = [
        f"{name_of(path)}:{text.count(chr(10), 0, match.start()) + 1}: {match.group().strip()}"
        for path in files(".py", ".sh", ".yaml", ".toml")
        for text in [path.read_text(encoding="utf-8")]
        for match in FORBIDDEN_CODE[reason].finditer(text)
    ]
    assert found == []


def test_documents_name_no_machine_paths() -> None:
    found = [
        f"{name_of(path)}: {match.group()}"
        for path in files(".md", ".txt", ".json")
        for match in FORBIDDEN_CODE["machine path"].finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_files_are_short() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in PYTHON}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    long: dict[str, int] = {}
    for path in PYTHON:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    long[f"{name_of(path)}:{node.lineno} {node.name}"] = length
    assert long == {}


def test_functions_of_the_package_are_annotated() -> None:
    bare: list[str] = []
    for path in PACKAGE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                missing = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
                if missing or node.returns is None:
                    bare.append(f"{name_of(path)}:{node.lineno} {node.name}")
    assert bare == []


def test_large_files_are_only_weights_and_images() -> None:
    allowed = {".safetensors", ".png", ".jpg", ".json"}
    tracked = files()
    large = [path for path in tracked if path.stat().st_size > 500_000]
    assert [name_of(path) for path in large if path.suffix not in allowed] == []
    assert sum(path.stat().st_size for path in tracked) < 80_000_000  # models/photo may have 40 of them
