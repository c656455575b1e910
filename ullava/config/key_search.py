"""Where a key of a YAML file stands and what it says, found by its name: ``ullava show KEY``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import yaml

from ullava.config.described import DOCUMENTS, Key, alternatives, keys_of, tables_in

SCALARS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}
"""Types of plain values in words."""

Tables = dict[type[Any], list[str]]
"""A table -> the dotted keys under which it stands; none for the file itself."""


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key of files of the kind ``document``. ``places``: its dotted names, ``NAME`` for one that a file chooses."""

    document: str
    places: tuple[str, ...]
    key: Key

    def lines(self) -> Iterator[str]:
        """Yield what is known of it, a line each: its places, its type, bounds and default, its words."""
        yield f"{self.document}: {', '.join(self.places)}"
        bounds = bound_words(self.key)
        told = "required" if self.key.required else f"default: {default_words(self.key)}"
        yield f"  {type_words(self.key.kind)}{', ' if bounds else ''}{bounds}; {told}"
        if self.key.words:
            yield f"  {self.key.words.replace('``', '')}"


def tables_of(root: type[Any]) -> Tables:
    """Return the tables of a kind of file in reading order, other kinds of files within it left out."""
    found: Tables = {}
    _collect(root, "", found)
    return found


def find_keys(name: str) -> list[FoundKey]:
    """Return the keys called ``name``: by a dotted name, whole or its end (``augment.crop``), or by the last word.

    A part of a dotted name that the file's author chooses (``dataset.coco.min_area``) may be written as anything.
    """
    wanted = name.split(".")
    return [
        FoundKey(document, places, key)
        for document, root in DOCUMENTS.items()
        for cls, above in tables_of(root).items()
        for key in keys_of(cls)
        if (places := tuple(place for place in _dotted(key, above) if _ends(place.split("."), wanted)))
    ]


def key_names() -> list[str]:
    """Return the last word of every key of every kind of file."""
    return sorted({key.name for root in DOCUMENTS.values() for cls in tables_of(root) for key in keys_of(cls)})


def _table_words(cls: type[Any]) -> str:
    return f"table of {', '.join(key.name for key in keys_of(cls))}"


def type_words(
    kind: Any,
    table: Callable[[type[Any]], str] = _table_words,
    choices: Callable[[list[str]], str] = " or ".join,
) -> str:
    """Return a type in words; ``table`` and ``choices`` say what a table and several fixed values are called."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in SCALARS:
        return SCALARS[kind]
    if origin is Literal:
        return choices([str(choice) for choice in inner])
    if origin is list:
        return f"list of {type_words(inner[0], table, choices)}"
    if origin is dict:
        return "names with values" if inner[1] is Any else f"names, each with {type_words(inner[1], table, choices)}"
    if isinstance(kind, type):
        return table(kind)
    members = (member for member in alternatives(kind) if member is not type(None))
    return " or ".join(type_words(member, table, choices) for member in members)


def bound_words(key: Key) -> str:
    """Return the bounds of a number in words."""
    words = {"at_least": "{} or more", "above": "above {}", "at_most": "{} or less", "below": "below {}"}
    return ", ".join(words[name].format(f"{bound:g}") for name, bound in key.bounds.items())


def default_words(key: Key) -> str:
    """Return the default as it would be written in YAML, or why there is none to write."""
    if key.required:
        return "required"
    if key.default == {} and isinstance(key.kind, type):
        return "its defaults"
    if key.default is None or key.default in ({}, []):
        return "none"
    return yaml.safe_dump(key.default, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


def _collect(cls: type[Any], place: str, found: Tables) -> None:
    if place and cls in DOCUMENTS.values():
        return
    found.setdefault(cls, [])
    if place:
        found[cls].append(place)
    for key in keys_of(cls):
        below = f"{place}.{key.name}" if place else key.name
        for kind in alternatives(key.kind):
            for inner in tables_in(kind):
                _collect(inner, f"{below}.NAME" if get_origin(kind) is dict else below, found)


def _dotted(key: Key, above: list[str]) -> list[str]:
    return [f"{place}.{key.name}" for place in above] or [key.name]


def _ends(place: list[str], wanted: list[str]) -> bool:
    """Whether ``place`` ends as ``wanted`` says; its last word is always a key's own."""
    tail = place[-len(wanted) :]
    return len(tail) == len(wanted) and all(part in (said, "NAME") for part, said in zip(tail, wanted, strict=True))
