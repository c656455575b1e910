"""The documentation as a site: the generated reference is whole, and mkdocs builds it without a warning."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import ullava
from ullava.cli.main import COMMANDS, build_parser
from ullava.config.described import DOCUMENTS, keys_of

ROOT = Path(__file__).resolve().parents[2]
ANSWERING = {"Predictor", "Chat", "Answer"}
GENERATORS = ("markdown_text", "command_pages", "config_pages", "python_pages")


@pytest.fixture(scope="module")
def site() -> Iterator[dict[str, ModuleType]]:
    """The modules that write the reference, as mkdocs imports them: from their own folder."""
    folder = str(ROOT / "docs" / "site")
    sys.path.insert(0, folder)
    try:
        yield {name: importlib.import_module(name) for name in GENERATORS}
    finally:
        sys.path.remove(folder)
        for name in GENERATORS:
            sys.modules.pop(name, None)


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from actions(below)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_page_has_every_argument(name: str, site: dict[str, ModuleType]) -> None:
    page = site["command_pages"].command_page(name)
    assert page.startswith(f"# ullava {name}\n\n")
    assert f"usage: ullava {name}" in page
    told = set(re.findall(r"`([^`\s]+)", page))
    for action in actions(build_parser(name)):
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        if isinstance(action, argparse._SubParsersAction):
            shown = {below.prog for below in action.choices.values()}
            assert {prog for prog in shown if not re.search(rf"^#+ {re.escape(prog)}$", page, re.MULTILINE)} == set()
        elif action.option_strings:
            assert set(action.option_strings) <= told


def test_a_command_page_says_what_an_argument_is(site: dict[str, ModuleType]) -> None:
    predict = site["command_pages"].command_page("predict")
    assert "| `--max-new-tokens N` | Default: 128. |" in predict
    data = site["command_pages"].command_page("data")
    assert "| `--annotations ANNOTATIONS` | The instances file. Required. |" in data
    assert data.count("## ullava data synth\n") == 1  # once, though it has a name of before
    assert "%(" not in predict + data


def test_the_list_of_commands_has_all(site: dict[str, ModuleType]) -> None:
    pages = site["command_pages"].command_pages()
    assert len(pages) == len(COMMANDS) + 1 >= 16
    for name in COMMANDS:
        assert f"[ullava {name}]({name}.md)" in pages["reference/commands/README.md"]


def test_every_key_is_on_one_page(site: dict[str, ModuleType]) -> None:
    generator = site["config_pages"]
    pages = generator.config_pages()
    homes = generator.home_pages()
    assert set(homes.values()) == set(DOCUMENTS)
    assert len(homes) >= 25
    for cls, document in homes.items():
        page = pages[f"reference/config/{document}.md"]
        assert page.count(f"## {cls.__name__} {{ #{cls.__name__.lower()} }}") == 1
        section = page.split(f"## {cls.__name__} {{")[1].split("\n## ")[0]
        assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [key.name for key in keys_of(cls)]


def test_rows_of_keys_say_type_bounds_and_default(site: dict[str, ModuleType]) -> None:
    pages = site["config_pages"].config_pages()
    train, model = pages["reference/config/train.md"], pages["reference/config/model.md"]
    assert "| `stage` | `scratch`, `align` or `ground` | required | which parts train" in train
    assert "| `dropout` | number, 0 or more, below 1 | `0.05` |" in train
    assert "| `optimizer` | [OptimizerConfig](#optimizerconfig) | its defaults |" in train
    assert "| `system` | [ModelConfig](model.md#modelconfig) | none |" in train
    assert "Under `vision.tower`, `vision.mg.pyramid`, `mask.sam`," in model
    assert "[docs/box\\_heads.md](../../docs/box_heads.md)" in model
    assert "(train.md#datasetentry)" in pages["reference/config/eval.md"]


def test_words_of_the_source_are_shown_as_written(site: dict[str, ModuleType]) -> None:
    as_markdown = site["markdown_text"].as_markdown
    assert as_markdown("a|b ``c|d`` `e_f` <g> h_i *j* {k: 1}\n [l]", 0) == (
        "a\\|b `c|d` `e_f` &lt;g&gt; h\\_i \\*j\\* \\{k: 1\\} \\[l\\]"
    )
    assert as_markdown("see docs/page.md, docs/no_such.md", 2) == (
        "see [docs/page.md](../../docs/page.md), docs/no\\_such.md"
    )


def definition(dotted: str) -> ast.FunctionDef | ast.ClassDef | None:
    module, _, name = dotted.rpartition(".")
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    body = ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []
    found = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name]
    return found[0] if found else None


def test_the_python_page_has_the_public_names(site: dict[str, ModuleType]) -> None:
    names = [name for _, below in site["python_pages"].PARTS.values() for name in below]
    assert len(names) >= 15
    public = {f"ullava.{name}" for name in ullava.__all__ if not name.startswith("_")}
    assert public <= set(names)
    assert [name for name in names if name not in public and definition(name) is None] == []


def test_what_the_public_names_return_is_on_the_page(site: dict[str, ModuleType]) -> None:
    names = {name for _, below in site["python_pages"].PARTS.values() for name in below}
    shown = {name.rpartition(".")[2] for name in names}
    returned = set()
    for dotted in ("ullava.inference.load.load", "ullava.inference.predictor.Predictor", "ullava.inference.chat.Chat"):
        node = definition(dotted)
        assert node is not None
        for method in [node] if isinstance(node, ast.FunctionDef) else node.body:
            if isinstance(method, ast.FunctionDef) and method.returns and not method.name.startswith("_"):
                returned |= {word for word in re.findall(r"\w+", ast.unparse(method.returns)) if word in ANSWERING}
    assert returned == ANSWERING
    assert returned <= shown


def test_mkdocs_builds_the_site_without_a_warning(tmp_path: Path) -> None:
    for name in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(name, reason=f"{name} (extra docs) is not installed")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "built")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    built = tmp_path / "built"
    documents = [path for pattern in ("docs/*.md", "models/*/README.md") for path in ROOT.glob(pattern)]
    assert len(documents) >= 40
    for path in documents:
        name = path.relative_to(ROOT).as_posix().removesuffix(".md").replace("README", "index")
        assert (built / f"{name}.html").is_file()
    assert (built / "docs" / "page.jpg").read_bytes() == (ROOT / "docs" / "page.jpg").read_bytes()
    assert "Load a model for inference." in (built / "reference" / "python.html").read_text(encoding="utf-8")
    for page, anchor in (("commands/data.html", "ullava-data-synth"), ("config/train.html", "lossconfig")):
        assert f'id="{anchor}"' in (built / "reference" / page).read_text(encoding="utf-8")
    formats = (built / "docs" / "conversations.html").read_text(encoding="utf-8")
    assert "&lt;|end_header_id|&gt;" in formats and "\\|" not in formats
    assert (built / "reference" / "config" / "train.schema.json").is_file()
    example = (built / "docs" / "examples" / "ask_photo.html").read_text(encoding="utf-8")
    assert "python docs/examples/ask_photo.py" in example and "to_pil" in example
    pages = "".join(path.read_text(encoding="utf-8") for path in built.rglob("*.html"))
    assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]+"', pages) == []
