"""A page for every kind of YAML file, made of the dataclasses that it is read into: each key, type, bounds, default."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from markdown_text import as_markdown, code, row, table

from ullava.config.described import DOCUMENTS, Key, keys_of, summary_of
from ullava.config.json_schema import json_schema
from ullava.config.key_search import bound_words, default_words, tables_of, type_words

DEPTH = 2
"""The pages lie in reference/config/."""

FILES = {
    "model": ("model.yaml", "`models/NAME/model.yaml`: one system."),
    "dataset": ("dataset.yaml", "`datasets/NAME/dataset.yaml`: one data set."),
    "train": ("Training recipe", "`configs/train/NAME.yaml`: what `ullava train` reads."),
    "eval": ("Evaluation recipe", "`configs/eval/NAME.yaml`: what `ullava eval` reads."),
    "compare": ("Comparison", "`configs/compare/NAME.yaml`: what `ullava compare` reads."),
}
HEAD = ("key", "is", "default", "says")


def config_pages() -> dict[str, str]:
    """Return the path of every page and schema on the site -> its text; the list of all kinds of files first."""
    homes = home_pages()
    pages = {f"reference/config/{document}.md": config_page(document, homes) for document in DOCUMENTS}
    schemas = {
        f"reference/config/{document}.schema.json": json.dumps(json_schema(document), indent=1)
        for document in DOCUMENTS
    }
    return {"reference/config/README.md": files_page(), **pages, **schemas}


def files_page() -> str:
    """Return the page that lists the kinds of files."""
    rows = [row(f"[{title}]({document}.md)", says) for document, (title, says) in FILES.items()]
    words = (
        "A key that is not here is refused, with its line and the nearest name that is. Any file may start from "
        "another one (`extends: other.yaml`, one level, relative to the file): its keys are laid over the other's, and "
        "null takes a key away. On a command line, `key.sub=value` does the same. `ullava show NAME` prints all keys "
        "of a file with their values, `ullava check` judges what keys mean together."
    )
    return f"# Keys of YAML files\n\n{words}\n\n{table(('file', 'is'), rows)}"


def config_page(document: str, homes: dict[type[Any], str]) -> str:
    """Return the page of one kind of file. ``homes``: every table -> the document on whose page it is explained."""
    title, says = FILES[document]
    root = DOCUMENTS[document]
    parts = [f"# {title}\n", says, f"As JSON Schema for editors: [{document}.schema.json]({document}.schema.json).\n"]
    for cls, places in tables_of(root).items():
        if homes[cls] == document:
            parts.extend(_section(cls, places, document, homes))
    return "\n".join(parts)


def home_pages() -> dict[type[Any], str]:
    """Return every table of every kind of file -> the first document in which it stands, its own for a whole file."""
    homes = {root: document for document, root in DOCUMENTS.items()}
    for document, root in DOCUMENTS.items():
        for cls in tables_of(root):
            homes.setdefault(cls, document)
    return homes


def linked_type(kind: Any, homes: dict[type[Any], str], document: str) -> str:
    """Return a type in words, tables as links from the page of ``document``."""

    def link(cls: type[Any]) -> str:
        page = "" if homes[cls] == document else f"{homes[cls]}.md"
        return f"[{cls.__name__}]({page}#{cls.__name__.lower()})"

    return type_words(kind, link, lambda choices: _listed([code(choice) for choice in choices]))


def _section(cls: type[Any], places: list[str], document: str, homes: dict[type[Any], str]) -> Iterator[str]:
    yield f"## {cls.__name__} {{ #{cls.__name__.lower()} }}\n"
    if places:
        yield f"Under {_listed([code(place) for place in places], 'and')}.\n"
    for paragraph in summary_of(cls).split("\n\n"):
        yield as_markdown(paragraph, DEPTH) + "\n"
    yield table(HEAD, [_row(key, document, homes) for key in keys_of(cls)])


def _row(key: Key, document: str, homes: dict[type[Any], str]) -> str:
    kind = linked_type(key.kind, homes, document)
    if key.bounds:
        kind = f"{kind}, {bound_words(key)}"
    return row(code(key.name), kind, _default_words(key), as_markdown(key.words, DEPTH))


def _default_words(key: Key) -> str:
    words = default_words(key)
    return words if words in ("required", "none", "its defaults") and not isinstance(key.default, str) else code(words)


def _listed(words: list[str], link: str = "or") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {link} {words[-1]}"
