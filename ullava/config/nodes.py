"""YAML text -> a tree of values that remember their file and line. Knows nothing of schemas.

Refused: duplicate keys, aliases (a few lines of them expand to gigabytes), custom tags, deep nesting, large files, and
very many values (each costs a reader in Python some fifty microseconds).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ullava.errors import ConfigError
from ullava.given_files import open_plain

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 50_000
MAX_KEY = 200
MAX_SHOWN = 80
"""Characters of a value that a message repeats."""

Scalar = str | int | float | bool | None

_TAG = "tag:yaml.org,2002:"
_TAGS = {_TAG + name for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value")}
# YAML 1.1 reads 2e-5 and 1e3 as strings because they have no dot or no sign; people mean numbers.
# Each digit has one place in the pattern: with two, a long number takes as many steps as the square of its digits.
_FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+")
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]{0,17})")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""What no file name and no output can hold: the null character and halves of characters."""


@dataclass(slots=True)
class Node:
    """A value and where it was written (``file:line``). ``key_where`` is the same for each key of a mapping."""

    where: str
    value: Scalar | list[Node] | dict[str, Node]
    raw: str = ""


def of_plain(value: Any, where: str) -> Node:
    """Return the tree of plain values (of JSON), every one of them written in ``where``."""
    if isinstance(value, dict):
        return Node(where, {str(key): of_plain(inner, where) for key, inner in value.items()})
    if isinstance(value, list):
        return Node(where, [of_plain(inner, where) for inner in value])
    return Node(where, value)


class _Loader(yaml.SafeLoader):
    """PyYAML's composer with limits; its constructor is not used."""

    depth = 0
    values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark if isinstance(event.start_mark, yaml.Mark) else None
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(None, None, "aliases (*name) are not allowed here", mark)
        if self.depth >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)
        self.values += 1
        if self.values > MAX_VALUES:
            raise yaml.MarkedYAMLError(None, None, f"more than {MAX_VALUES} keys and values", mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def read_file(path: Path) -> str:
    """Return the text of a YAML file.

    Raises:
        ConfigError: it is missing, not a file, too large or not UTF-8.
    """
    try:
        with open_plain(path, error=ConfigError) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise ConfigError(f"{path}: {size} bytes; a configuration has at most {MAX_BYTES}")
            return file.read().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def parse(text: str, name: str, problems: list[str]) -> Node:
    """Return the tree of one YAML document; an empty one is an empty mapping. ``name`` is the file in messages.

    Duplicate keys and unusable values are added to ``problems``.

    Raises:
        ConfigError: the text is not YAML at all.
    """
    root = _compose(text, name)
    if root is None:
        return Node(f"{name}:1", {})
    return _convert(root, name, "", problems)


def parse_value(text: str, where: str) -> Node:
    """Return the tree of one value given on the command line; every part of it is said to be at ``where``.

    Raises:
        ConfigError: the text is not a YAML value.
    """
    problems: list[str] = []
    try:
        root = _compose(text, where)
        node = Node(where, None, text) if root is None else _convert(root, where, "", problems)
    except ConfigError as error:
        raise ConfigError(f"{where}: cannot read the value {shortened(text)!r}") from error
    if problems:
        raise ConfigError([f"{where}: {problem.split(': ', 1)[1]}" for problem in problems])
    for part in _walk(node):
        part.where = where
    return node


def merge(base: Node, over: Node) -> Node:
    """Return ``base`` with the keys of ``over`` laid on top, mapping by mapping; a null in ``over`` removes the key."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    merged = dict(base.value)
    for key, child in over.value.items():
        if child.value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged[key], child) if key in merged else child
    return Node(over.where, merged)


def shortened(text: str) -> str:
    """Return ``text`` as a message repeats it: a long one without its end."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"


def _walk(node: Node) -> Iterator[Node]:
    yield node
    children = node.value.values() if isinstance(node.value, dict) else node.value
    if not isinstance(children, str | int | float | None):
        for child in children:
            yield from _walk(child)


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name}:{line}: a character that YAML does not allow") from error
    try:
        try:
            root: yaml.Node | None = loader.get_single_node()
            return root
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        context = f" ({error.context})" if error.context else ""
        raise ConfigError(f"{place}: {error.problem or 'is not YAML'}{context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name}:{line}: a character that YAML does not allow") from error
    except (ValueError, OverflowError) as error:
        # PyYAML passes on what Python says of "\U99999999", which is no character, and of a version of many digits.
        raise ConfigError(f"{name}:{loader.line + 1}: is not YAML ({shortened(str(error))})") from error


def _convert(node: yaml.Node, name: str, dotted: str, problems: list[str]) -> Node:
    where = f"{name}:{node.start_mark.line + 1}"
    if node.tag not in _TAGS:
        problems.append(f"{where}: {dotted or 'document'}: the tag {node.tag} is not allowed")
        return Node(where, None)
    if isinstance(node, yaml.MappingNode):
        return Node(where, _convert_mapping(node, name, dotted, problems))
    if isinstance(node, yaml.SequenceNode):
        children = [_convert(child, name, f"{dotted}[{i}]", problems) for i, child in enumerate(node.value)]
        return Node(where, children)
    text = str(node.value)
    if _NO_TEXT.search(text):
        problems.append(f"{where}: {dotted or 'document'}: holds a null character, or half of a character")
        return Node(where, None)
    if not _fits_tag(node):
        kind = node.tag.removeprefix(_TAG)
        problems.append(f"{where}: {dotted or 'document'}: '{shortened(text)}' is not what its tag !!{kind} says")
        return Node(where, None)
    return Node(where, _scalar(node), text)


def _convert_mapping(node: yaml.MappingNode, name: str, dotted: str, problems: list[str]) -> dict[str, Node]:
    children: dict[str, Node] = {}
    first_line: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(f"{name}:{line}: {dotted or 'document'}: a key must be a word")
            continue
        key = key_node.value
        if len(key) > MAX_KEY:
            problems.append(f"{name}:{line}: {dotted or 'document'}: a key of {len(key)} characters")
            continue
        if _NO_TEXT.search(key):
            problems.append(f"{name}:{line}: {dotted or 'document'}: a key holds a null character, or half of one")
            continue
        inner = f"{dotted}.{key}" if dotted else key
        if key in children:
            problems.append(f"{name}:{line}: {inner}: duplicate key, already given in line {first_line[key]}")
            continue
        child = _convert(value_node, name, inner, problems)
        child.where = f"{name}:{line}"
        children[key], first_line[key] = child, line
    return children


def reads_as_number(text: str) -> bool:
    """Say whether ``text``, written without quotes, is a number here though PyYAML takes it for a word."""
    return _FLOAT.fullmatch(text) is not None


def _fits_tag(node: yaml.Node) -> bool:
    """Whether a scalar is what its tag says: one written by hand (``!!float x``) need not be."""
    if node.tag == f"{_TAG}str":
        return True
    plain: str = _Loader("").resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
    return plain == node.tag


def _scalar(node: yaml.Node) -> Scalar:
    """Return the Python value of a scalar: PyYAML's reading, with YAML 1.2 numbers and without dates and base 60."""
    text, tag = str(node.value), str(node.tag).removeprefix(_TAG)
    if getattr(node, "style", None) is not None and tag == "str":
        return text
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() in ("yes", "true", "on")
    if tag == "int" and _INT.fullmatch(text):
        return int(text.replace("_", ""))
    if (tag == "float" and ":" not in text) or _FLOAT.fullmatch(text):
        return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
