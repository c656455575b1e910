"""YAML files -> the frozen dataclasses of ``ullava.config.schema``, strictly, with every problem reported at once.

A problem reads ``file:line: dotted.key: what is wrong; did you mean 'x'?``. A recipe may start from another one
(``extends: other.yaml``, one level, relative to the file): its keys are laid over the other's, null removes a key.
A recipe in u-LLaVA's own form is translated first (``ullava.config.old_form``).
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from ullava.config import compat_ullava_v1, nodes, old_form
from ullava.config.nodes import Node
from ullava.config.renamed import KEYS, current_keys, current_override
from ullava.config.schema import EvalRecipe, TrainRecipe
from ullava.errors import ConfigError, did_you_mean

T = TypeVar("T")

COMMAND_LINE = "command line"
EXTENDS = "extends"


def load_config(cls: type[T], path: Path, overrides: Sequence[str] = ()) -> T:
    """Read the YAML file ``path`` into the dataclass ``cls``. ``overrides`` are ``key.sub=value`` with YAML values.

    Raises:
        ConfigError: with one line for every problem in the file, the file that it extends, and the overrides.
    """
    return _parse(cls, nodes.read_file(path), str(path), overrides, path.parent)


def parse_text(cls: type[T], text: str, name: str = "text", overrides: Sequence[str] = ()) -> T:
    """Do what ``load_config`` does for YAML given as a string. ``name`` is its file name in messages.

    Raises:
        ConfigError: as ``load_config``.
    """
    return _parse(cls, text, name, overrides, Path())


def field_problems(cls: type[Any], field: str, value: Any, where: str, dotted: str) -> list[str]:
    """Return what keeps ``value`` (plain, as read from JSON) from being ``field`` of the dataclass ``cls``.

    ``where`` is the file in messages, ``dotted`` what the value is called there.
    """
    builder = _Builder([])
    node = nodes.of_plain(value, where)
    built = builder.build(get_type_hints(cls)[field], node, dotted)
    metadata = next(entry.metadata for entry in dataclasses.fields(cls) if entry.name == field)
    builder._bound(metadata, built, node, dotted)
    return builder.problems


def place(path: Path, dotted: str) -> str:
    """Return ``file:line`` of a key of a YAML file or of the one that it extends, of its nearest parent otherwise."""
    try:
        node = _extended(nodes.parse(nodes.read_file(path), str(path), []), path.parent, [])
    except ConfigError:
        return str(path)
    for config in {row.config for row in KEYS}:  # which one the file is meant for is not known here
        current_keys(node, config, [], quiet=True)
    for key in dotted.split("."):
        if not isinstance(node.value, dict) or key not in node.value:
            break
        node = node.value[key]
    return node.where


def hints(cls: type[Any], path: Path) -> list[str]:
    """Return a line for each key of the YAML file ``path`` (for ``cls``) that a newer one stands for; none refuses."""
    try:
        root = _extended(nodes.parse(nodes.read_file(path), str(path), []), path.parent, [])
    except ConfigError:
        return []
    return compat_ullava_v1.single_keys(cls, root)


def dump_config(config: Any) -> str:
    """Return the YAML text of a config dataclass, defaults included; ``parse_text`` reads it back equal."""
    return yaml.dump(_plain(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """PyYAML's, but words that our loader would read as numbers (1e5) are quoted."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        style = "'" if nodes.reads_as_number(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _parse(cls: type[T], text: str, name: str, overrides: Sequence[str], folder: Path) -> T:
    problems: list[str] = []
    root = nodes.parse(text, name, problems)
    if cls in (TrainRecipe, EvalRecipe) and old_form.is_old_form(root):
        if old_form.trains(root) != (cls is TrainRecipe):
            raise ConfigError(f"{root.where}: a recipe for ullava {'train' if cls is EvalRecipe else 'eval'}")
        root = old_form.translate(root, problems)
        if problems:
            raise ConfigError(sorted(set(problems), key=problems.index))
    root = _extended(current_keys(root, cls.__name__, problems), folder, problems, cls.__name__)
    root = compat_ullava_v1.expand(cls, _overridden(root, overrides, problems, cls.__name__))
    config = _Builder(problems).build(cls, root, "")
    if problems:
        raise ConfigError(sorted(set(problems), key=problems.index))
    built: T = config
    return built


def _extended(root: Node, folder: Path, problems: list[str], config: str = "") -> Node:
    """Lay ``root`` over the file that it extends, if it does. ``config``: the class that both are meant for."""
    if not isinstance(root.value, dict) or EXTENDS not in root.value:
        return root
    link = root.value[EXTENDS]
    rest = Node(root.where, {key: child for key, child in root.value.items() if key != EXTENDS})
    if not isinstance(link.value, str):
        problems.append(f"{link.where}: {EXTENDS}: expected the path of a YAML file")
        return rest
    path = folder / link.value
    try:
        base = nodes.parse(nodes.read_file(path), str(path), problems)
    except ConfigError as error:
        problems.extend(f"{link.where}: {EXTENDS}: {problem}" for problem in error.problems)
        return rest
    if isinstance(base.value, dict) and EXTENDS in base.value:
        problems.append(f"{link.where}: {EXTENDS}: {path} extends another file itself; only one level is allowed")
        base.value.pop(EXTENDS)
    return nodes.merge(current_keys(base, config, problems), rest)


def _overridden(root: Node, overrides: Sequence[str], problems: list[str], config: str) -> Node:
    for override in overrides:
        key, equals, text = override.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            problems.append(f"{COMMAND_LINE}: '{override}': expected key=value or key.sub=value")
            continue
        try:
            value = nodes.parse_value(text, COMMAND_LINE)
        except ConfigError as error:
            problems.extend(f"{COMMAND_LINE}: {key}: {problem.split(': ', 1)[1]}" for problem in error.problems)
            continue
        path, value = current_override(path, value, config, problems)
        root = _with(root, path, value, key, problems)
    return root


def _with(node: Node, path: Sequence[str], value: Node, dotted: str, problems: list[str]) -> Node:
    """Return a copy of the tree with ``value`` at ``path``; missing mappings on the way are made."""
    if not path:
        return value
    if node.value is not None and not isinstance(node.value, dict):
        problems.append(f"{COMMAND_LINE}: {dotted}: there are no keys below a {_kind(node)} ({node.where})")
        return node
    children = dict(node.value or {})
    child = children.get(path[0], Node(COMMAND_LINE, {}))
    children[path[0]] = _with(child, path[1:], value, dotted, problems)
    return Node(node.where, children)


class _Builder:
    """Turns nodes into typed values; what does not fit is written to ``problems`` and becomes None."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems

    def build(self, kind: Any, node: Node, dotted: str) -> Any:
        """Return the value of ``node`` as ``kind``: a dataclass, container, Literal, union, scalar type or Any."""
        origin = get_origin(kind)
        if kind is Any:
            return _untyped(node)
        if origin in (Union, types.UnionType):
            return self._union(get_args(kind), node, dotted)
        if origin is Literal:
            return self._literal(get_args(kind), node, dotted)
        if dataclasses.is_dataclass(kind):
            return self._dataclass(kind, node, dotted)
        if origin in (list, tuple) or kind in (list, tuple):
            return self._sequence(origin or kind, get_args(kind), node, dotted)
        if origin is dict or kind is dict:
            return self._mapping(get_args(kind), node, dotted)
        return self._scalar(kind, node, dotted)

    def _complain(self, node: Node, dotted: str, message: str) -> None:
        self.problems.append(f"{node.where}: {dotted or 'document'}: {message}")

    def _dataclass(self, cls: Any, node: Node, dotted: str) -> Any:
        if not isinstance(node.value, dict):
            return self._complain(node, dotted, f"expected keys with values, got {_shown(node)}")
        before = len(self.problems)
        hints = get_type_hints(cls)
        fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
        values: dict[str, Any] = {}
        for key, child in node.value.items():
            inner = f"{dotted}.{key}" if dotted else key
            if key in fields:
                values[key] = self.build(hints[key], child, inner)
                self._bound(fields[key].metadata, values[key], child, inner)
            else:
                self._complain(child, inner, f"unknown key{did_you_mean(key, fields)}")
        for name, field in fields.items():
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and name not in node.value:
                self._complain(node, f"{dotted}.{name}" if dotted else name, "required key is missing")
        if len(self.problems) > before:
            return None
        try:
            return cls(**values)
        except ValueError as error:
            # A dataclass may check its own fields together in __post_init__.
            return self._complain(node, dotted, str(error))

    def _bound(self, metadata: Mapping[str, Any], value: Any, node: Node, dotted: str) -> None:
        """Check a number against the ``at_least``, ``at_most``, ``above`` and ``below`` of its field."""
        if isinstance(value, int | float):
            if value < metadata.get("at_least", value):
                self._complain(node, dotted, f"has to be {metadata['at_least']} or more, not {_shown(node)}")
            if value > metadata.get("at_most", value):
                self._complain(node, dotted, f"has to be {metadata['at_most']} or less, not {_shown(node)}")
            if "above" in metadata and value <= metadata["above"]:
                self._complain(node, dotted, f"has to be above {metadata['above']}, not {_shown(node)}")
            if "below" in metadata and value >= metadata["below"]:
                self._complain(node, dotted, f"has to be below {metadata['below']}, not {_shown(node)}")

    def _union(self, kinds: tuple[Any, ...], node: Node, dotted: str) -> Any:
        if node.value is None and type(None) in kinds:
            return None
        real = [kind for kind in kinds if kind is not type(None)]
        if len(real) == 1:
            return self.build(real[0], node, dotted)
        for kind in real:
            attempt = _Builder([])
            value = attempt.build(kind, node, dotted)
            if not attempt.problems:
                return value
        return self._complain(node, dotted, f"expected {' or '.join(_name(kind) for kind in real)}, got {_shown(node)}")

    def _literal(self, choices: tuple[Any, ...], node: Node, dotted: str) -> Any:
        for choice in choices:
            if type(choice) is type(node.value) and choice == node.value:
                return choice
        if isinstance(node.value, bool) and node.raw in choices:
            return self._complain(node, dotted, f'YAML reads {node.raw} as a truth value; write "{node.raw}"')
        listed = ", ".join(repr(choice) for choice in choices)
        hint = did_you_mean(str(node.value), [str(choice) for choice in choices])
        hint = hint if "did you mean" in hint else ""
        return self._complain(node, dotted, f"{_shown(node)} is not one of {listed}{hint}")

    def _sequence(self, origin: Any, args: tuple[Any, ...], node: Node, dotted: str) -> Any:
        if not isinstance(node.value, list):
            return self._complain(node, dotted, f"expected a list, got {_shown(node)}")
        kind = args[0] if args else Any
        return origin(self.build(kind, child, f"{dotted}[{i}]") for i, child in enumerate(node.value))

    def _mapping(self, args: tuple[Any, ...], node: Node, dotted: str) -> Any:
        if not isinstance(node.value, dict):
            return self._complain(node, dotted, f"expected keys with values, got {_shown(node)}")
        kind = args[1] if args else Any
        return {key: self.build(kind, child, f"{dotted}.{key}") for key, child in node.value.items()}

    def _scalar(self, kind: Any, node: Node, dotted: str) -> Any:
        value = node.value
        if kind is bool and isinstance(value, bool):
            return value
        if kind is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
            number = _as_float(value)
            if number is not None and math.isfinite(number):
                return number
        if kind in (str, Path) and isinstance(value, str):
            return kind(value)
        word = node.raw if kind is str and _is_scalar(node) else ""
        quote = f'; write "{nodes.shortened(word)}" if you mean the word' if word else ""
        return self._complain(node, dotted, f"expected {_name(kind)}, got {_shown(node)}{quote}")


def _as_float(value: int | float | str) -> float | None:
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _untyped(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: _untyped(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [_untyped(child) for child in node.value]
    return node.value


def _is_scalar(node: Node) -> bool:
    return not isinstance(node.value, dict | list)


def _kind(node: Node) -> str:
    return "list" if isinstance(node.value, list) else type(node.value).__name__


def _name(kind: Any) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    return names.get(kind) or str(getattr(kind, "__name__", kind))


def _shown(node: Node) -> str:
    if isinstance(node.value, dict):
        return "keys with values"
    if isinstance(node.value, list):
        return "a list"
    if node.value is None:
        return "nothing"
    shown = nodes.shortened(node.raw or str(node.value))
    return f"'{shown}'" if isinstance(node.value, str) else shown
