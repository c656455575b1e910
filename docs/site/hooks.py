"""What mkdocs runs: the site's files are the repository's documents at their own paths, and the generated reference.

Because every document keeps its path, links between them are the same on the site and in a viewer of the repository.
What a document links to (an image, a YAML file) comes along.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from command_pages import command_pages
from config_pages import config_pages
from example_pages import example_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from notebook_pages import notebook_pages
from python_pages import python_pages

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "docs/*/README.md",
    "*/README.md",
    "models/*/README.md",
    "datasets/*/README.md",
    "tests/golden/README.md",
)
_LINK = re.compile(r"\]\(([^)#\s]+)")
_CELL = re.compile(r"<td\b.*?</td>", re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every page that a pattern of the navigation (``models/*/README.md``) means in its place."""
    config.nav = _expanded(config.nav, [*_documents(), *_generated()])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace what lies in the folder of documents by the repository's documents and the generated pages."""
    kept = [file for file in files if file.src_dir != config.docs_dir]
    documents = _documents()
    for name in [*documents, *_linked(documents)]:
        kept.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    kept.extend(File.generated(config, name, content=text) for name, text in _generated().items())
    return Files(kept)


def on_page_content(html: str, **_: Any) -> str:
    """Show a bar within code in a table as a bar: viewers of repositories want it written with a backslash."""
    return _CELL.sub(lambda cell: cell.group().replace("\\|", "|"), html)


def _documents() -> list[str]:
    found = {path.relative_to(ROOT).as_posix() for pattern in DOCUMENTS for path in ROOT.glob(pattern)}
    return sorted(found)


def _linked(documents: list[str]) -> list[str]:
    """Return the files of the repository that the documents link to and that are no documents."""
    found: set[str] = set()
    for name in documents:
        for link in _LINK.findall((ROOT / name).read_text(encoding="utf-8")):
            target = (ROOT / name).parent.joinpath(link).resolve() if "://" not in link else ROOT
            if target.is_file() and ROOT in target.parents:
                found.add(target.relative_to(ROOT).as_posix())
    return sorted(found - set(documents))


def _generated() -> dict[str, str]:
    return {**python_pages(), **command_pages(), **config_pages(), **notebook_pages(), **example_pages()}


def _expanded(nav: Any, names: list[str]) -> Any:
    """Return the navigation with each pattern as the pages that it means, the one above them left out."""
    if isinstance(nav, dict):
        return {title: _expanded(below, names) for title, below in nav.items()}
    if not isinstance(nav, list):
        return nav
    expanded: list[Any] = []
    for entry in nav:
        if isinstance(entry, str) and "*" in entry:
            pages = [name for name in names if name.endswith(".md") and fnmatch(name, entry)]
            if not pages:
                raise ValueError(f"mkdocs.yml: nav: no document is called {entry}")
            expanded.extend({_title(page): page} for page in pages if page not in nav)
        else:
            expanded.append(_expanded(entry, names))
    return expanded


def _title(page: str) -> str:
    """Return what a page of a pattern is called in the navigation: its folder where it is a README."""
    path = Path(page)
    return path.parent.name if path.stem == "README" else path.stem
