"""A page for every script of docs/examples: what its docstring says, and its code as a block."""

from __future__ import annotations

import ast
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "examples"


def example_pages() -> dict[str, str]:
    """Return the path of every page on the site -> its text. They lie beside the scripts: links stay right."""
    return {f"docs/examples/{path.stem}.md": example_page(path) for path in example_scripts()}


def example_scripts() -> list[Path]:
    """Return the scripts that are run, without what they share (``_*.py``)."""
    return sorted(path for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def example_page(path: Path) -> str:
    """Return a script as Markdown. Its docstring begins with a sentence, then the command line, then more."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    sentence, line, *more = (ast.get_docstring(tree) or "").split("\n\n")
    code = "\n".join(source.splitlines()[tree.body[0].end_lineno or 0 :]).strip()
    title = f"# {path.stem}"
    parts = [title, sentence, f"```text\n{line}\n```", *more, f"As a file: [{path.name}]({path.name})."]
    return "\n\n".join([*parts, f"```python\n{code}\n```"]) + "\n"
