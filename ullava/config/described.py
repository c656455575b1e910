"""What is known of every key of a configuration: type, default, bounds, and the words of the source about it.

The words are the docstring below a field, or those sentences of its class's docstring that speak of it: a sentence that
begins with the key in double backticks, what follows it in the same paragraph up to the next key, and, where no
sentence begins so, those that mention it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ullava.config.comparison import CompareRecipe
from ullava.config.schema import DatasetConfig, EvalRecipe, ModelConfig, TrainRecipe

DOCUMENTS: Mapping[str, type[Any]] = types.MappingProxyType(
    {
        "model": ModelConfig,
        "dataset": DatasetConfig,
        "train": TrainRecipe,
        "eval": EvalRecipe,
        "compare": CompareRecipe,
    }
)
"""What a YAML file may be -> the dataclass that it is read into."""

BOUNDS = ("at_least", "above", "at_most", "below")
"""The bounds that a field may have (ullava.config.fields), in the order in which they are told."""

_QUOTED = re.compile(r"``([^`]+)``")
_SENTENCES = re.compile(
    r"(?:(?<=[.;])|(?<=[^`],))\s+(?=``[^`]+``(?:, ``[^`]+``)*:|``[^`]+`` n\b)|(?<=[.])\s+(?=[A-Z(`])"
)
_SUBJECTS = re.compile(r"(?:``[^`]+``(?:, | and )?)+")


@dataclass(frozen=True, slots=True)
class Key:
    """One key. ``kind``: its resolved annotation. ``default``: plain values, None too where it is ``required``.

    ``bounds``: of a number, by the names of ``BOUNDS``. ``words``: one line of the source's Markdown, or nothing.
    """

    name: str
    kind: Any
    required: bool
    default: Any
    bounds: Mapping[str, float]
    words: str


_TOLD: dict[type[Any], tuple[Key, ...]] = {}
"""What was read before: the source of a class is looked for slowly."""


def keys_of(cls: type[Any]) -> tuple[Key, ...]:
    """Return the keys of a dataclass of ``ullava.config`` in the order of its fields."""
    if cls not in _TOLD:
        _TOLD[cls] = _read_keys(cls)
    return _TOLD[cls]


def _read_keys(cls: type[Any]) -> tuple[Key, ...]:
    hints = get_type_hints(cls)
    words = words_of(cls)
    return tuple(
        Key(
            name=field.name,
            kind=hints[field.name],
            required=field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
            default=_default(field),
            bounds={name: field.metadata[name] for name in BOUNDS if name in field.metadata},
            words=words.get(field.name, ""),
        )
        for field in dataclasses.fields(cls)
        if field.init
    )


def words_of(cls: type[Any]) -> dict[str, str]:
    """Return key -> what the source says of it, for those of which it says something; bases are asked too."""
    names = [field.name for field in dataclasses.fields(cls)]
    found: dict[str, str] = {}
    for base in reversed([base for base in cls.__mro__ if dataclasses.is_dataclass(base)]):
        found |= _of_docstring(inspect.cleandoc(base.__doc__ or ""), names)
        found |= _below_fields(base)
    return found


def summary_of(cls: type[Any]) -> str:
    """Return the docstring of a dataclass, its lines joined, a blank line between its paragraphs."""
    return "\n\n".join(_paragraphs(inspect.cleandoc(cls.__doc__ or "")))


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the one type that ``kind`` is."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def tables_in(kind: Any) -> Iterator[type[Any]]:
    """Yield the dataclasses that a type names, itself or in its containers."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        yield kind
    elif get_origin(kind) is not Literal:
        for inner in get_args(kind):
            yield from tables_in(inner)


def _default(field: dataclasses.Field[Any]) -> Any:
    """Return the default as plain values; a table of defaults as the keys that differ from what its class says."""
    if field.default is not dataclasses.MISSING:
        return _plain(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return _plain(field.default_factory())
    return None


def _plain(value: Any) -> Any:
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    standard = {key.name: key.default for key in keys_of(type(value))}
    given = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return {name: inner for name, inner in given.items() if inner != standard[name]}


def _paragraphs(text: str) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]


def _of_docstring(text: str, names: list[str]) -> dict[str, str]:
    """Return what the sentences of a docstring say of the fields ``names``."""
    subject: dict[str, list[str]] = {}
    mention: dict[str, list[str]] = {}
    for paragraph in _paragraphs(text):
        current: list[str] = []
        for sentence in _SENTENCES.split(paragraph):
            leading = _SUBJECTS.match(sentence)
            chosen = _named(leading.group(), names) if leading else []
            mentioned = [name for name in _named(sentence, names) if name not in chosen]
            for name in mentioned:
                mention.setdefault(name, []).append(sentence)
            if chosen or mentioned:
                current = chosen
            for name in current:
                subject.setdefault(name, []).append(sentence)
    return {name: _sentence(name, " ".join(said)) for name, said in {**mention, **subject}.items()}


def _named(text: str, names: list[str]) -> list[str]:
    """Return the fields that are quoted in ``text``: ``name``, or ``name: value``."""
    quoted = [quote.split(":")[0].strip() for quote in _QUOTED.findall(text)]
    return [name for name in names if name in quoted]


def _sentence(name: str, text: str) -> str:
    """Return the words without the name of the key before them, and with a full stop."""
    text = text.removeprefix(f"``{name}``: ")
    return text[:-1] + "." if text[-1:] in ",;" else text


def _below_fields(cls: type[Any]) -> dict[str, str]:
    """Return field -> the docstring that stands below it; nothing where the source is not at hand."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except OSError:
        return {}
    body = ast.parse(source).body[0]
    found: dict[str, str] = {}
    if isinstance(body, ast.ClassDef):
        for before, after in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[before.target.id] = " ".join(after.value.value.split())
    return found
