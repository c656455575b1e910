"""Words of the source as Markdown: code stays code, everything else is shown as it is written."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_CODE = re.compile(r"(``.+?``|`[^`]+`)")
_SPECIAL = re.compile(r"([\\*_<>\[\]{}|#])")
_DOCUMENT = re.compile(r"\b((?:docs|models|datasets|configs|evaluation|shells)/(?:\w+/)*\w+\.md)\b")


def as_markdown(text: str, depth: int) -> str:
    """Return one line of a docstring or of a help text as Markdown that may stand in a table.

    Documents of the repository that it names become links. ``depth``: how many folders the page lies below the root of
    the site.
    """
    parts = _CODE.split(" ".join(text.split()))
    return "".join(_code(part) if number % 2 else _prose(part, depth) for number, part in enumerate(parts))


def code(text: str) -> str:
    """Return ``text`` as code that may stand in a table; an empty one as an empty pair of quotes."""
    return f"`{_unbroken(text)}`" if text else '`""`'


def row(*cells: str) -> str:
    """Return one row of a table."""
    return "| " + " | ".join(cells) + " |"


def table(head: tuple[str, ...], rows: list[str]) -> str:
    """Return a table, or nothing where it has no rows."""
    return "\n".join([row(*head), row(*["---"] * len(head)), *rows]) + "\n" if rows else ""


def _code(part: str) -> str:
    ticks = "``" if part.startswith("``") else "`"
    return f"`{_unbroken(part.strip(ticks).strip())}`"


def _unbroken(text: str) -> str:
    """Keep a table's cells apart: this Markdown takes a bar within code for code, other kinds do not."""
    return text.replace("`", "'").replace("\n", " ")


def _prose(part: str, depth: int) -> str:
    pieces = _DOCUMENT.split(part)
    return "".join(_link(piece, depth) if number % 2 else _escaped(piece) for number, piece in enumerate(pieces))


def _link(document: str, depth: int) -> str:
    if not (ROOT / document).is_file():
        return _escaped(document)
    return f"[{_escaped(document)}]({'../' * depth}{document})"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text).replace("\\<", "&lt;").replace("\\>", "&gt;")
