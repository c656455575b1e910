"""What the documents tell people to type works, and the files that they name exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ullava import resources
from ullava.cli.main import COMMANDS, build_parser
from ullava.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    path
    for folder in (".", "models", "models/*", "datasets", "configs", "evaluation", "shells", "docs", "docs/*")
    for path in sorted(ROOT.glob(f"{folder}/*.md"))
]


def commands_of(path: Path) -> list[str]:
    """The lines of the ```bash blocks, continued lines joined, comments dropped."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").split(" #")[0].strip() for line in lines if line.strip() and line.strip()[0] != "#"]


COMMAND_LINES = [(path.relative_to(ROOT).as_posix(), line) for path in DOCUMENTS for line in commands_of(path)]


def test_there_are_commands_to_check() -> None:
    assert len(DOCUMENTS) >= 7
    assert len(COMMAND_LINES) >= 10
    readme = [line for name, line in COMMAND_LINES if name == "README.md"]
    assert readme[0] == "shells/demo.sh"
    assert readme[1] == "shells/test.sh"


@pytest.mark.parametrize(("document", "line"), COMMAND_LINES)
def test_commands_of_the_documents_parse(document: str, line: str) -> None:
    words = shlex.split(line)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    if words[0].startswith("torchrun"):
        words = words[words.index("-m") + 1 :]
    if words[0] in (".venv/bin/ullava", "ullava"):
        _check_arguments(words[1:])
    elif words[0].endswith(".sh") or words[0] == ".ci/run":
        assert (ROOT / words[0]).is_file(), f"{document} names {words[0]}"
        if words[0] == "shells/eval.sh":
            _check_arguments(["eval", *words[1:]])
    elif words[0].endswith("python"):
        assert words[1] == "-m" or (ROOT / words[1]).is_file(), f"{document} names {words[1]}"


def _check_arguments(words: list[str]) -> None:
    """Parse an ``ullava`` command line, and find the recipe and the model that it names."""
    if words[0].startswith("-"):
        assert words in (["--help"], ["--version"])
        return
    assert words[0] in COMMANDS
    if set(words) & {"--help", "-h"}:
        return
    args = build_parser(words[0]).parse_args(words[1:])
    recipe = getattr(args, "recipe", None)
    if recipe and not recipe.isupper() and "mine" not in recipe:
        resources.find("configs", recipe)
    model = getattr(args, "model", None)
    if model and not model.isupper() and "/" not in model:
        resources.find("models", model)


def test_a_wrong_command_would_be_noticed() -> None:
    with pytest.raises(UserError):
        _check_arguments(["list", "models", "--nonsense"])
    with pytest.raises(UserError):
        _check_arguments(["check", "configs/train/no_such_recipe.yaml"])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_the_documents_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    links += re.findall(r"<img[^>]* src=\"([^\":]+)\"", text)
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_of_ours_that_the_documents_name_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:ullava|models|datasets|configs|evaluation|shells|tests|docs)/[\w./-]+)`", text))
    missing = [name for name in named if not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists()]
    assert missing == []
