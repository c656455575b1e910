"""Keys of configurations, told with type, default, bounds and the words of the source."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from ullava.config.described import DOCUMENTS, Key, keys_of, summary_of, tables_in, words_of
from ullava.config.fields import above, at_least
from ullava.config.schema import LanguageConfig, LossConfig, MaskHeadConfig, ModelConfig, TrainRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    """A table within. ``deep``: how deep it goes."""

    deep: int = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    """What a file says. ``first``: words of one key. They go on. ``second``, ``third``: two at once.

    ``mode: slow`` takes its time; others hurry. Nothing begins with ``hidden``, which is mentioned.
    """

    first: float = field(default=1.5, metadata=above(0, 2))
    second: int | None = field(default=None, metadata=at_least(1))
    third: list[str] = field(default_factory=lambda: ["a"])
    mode: Literal["slow", "fast"] = "fast"
    hidden: bool = False
    below: str
    """Written below
    the field.
    """
    inner: Inner = field(default_factory=lambda: Inner(deep=4))
    silent: dict[str, Inner] = field(default_factory=dict)


def keys(cls: type[Any]) -> dict[str, Key]:
    return {key.name: key for key in keys_of(cls)}


def test_words_come_from_the_sentences_about_a_key() -> None:
    words = words_of(Outer)
    assert words["first"] == "words of one key. They go on."
    assert words["second"] == words["third"] == "``second``, ``third``: two at once."
    assert words["mode"] == "``mode: slow`` takes its time; others hurry."
    assert words["hidden"] == "Nothing begins with ``hidden``, which is mentioned."
    assert words["below"] == "Written below the field."
    assert "silent" not in words


def test_a_key_has_type_default_and_bounds() -> None:
    found = keys(Outer)
    assert (found["first"].default, dict(found["first"].bounds)) == (1.5, {"above": 0, "at_most": 2})
    assert found["second"].default is None and not found["second"].required
    assert found["third"].default == ["a"]
    assert found["below"].required
    assert found["inner"].default == {"deep": 4}  # what differs from the table's own defaults
    assert list(tables_in(found["silent"].kind)) == [Inner]
    assert summary_of(Inner) == "A table within. ``deep``: how deep it goes."


def test_words_of_a_base_hold_for_what_it_gives() -> None:
    assert "folder or an id" in words_of(LanguageConfig)["path"]
    assert "Half precision" in words_of(LanguageConfig)["dtype"]


def test_real_keys_have_their_bounds_and_defaults() -> None:
    assert dict(keys(LossConfig)["dice"].bounds) == {"at_least": 0}
    assert keys(LossConfig)["dice"].default == 0.5
    assert keys(TrainRecipe)["stage"].required
    assert keys(ModelConfig)["vision"].default == {"tower": {}}
    assert keys(MaskHeadConfig)["encoder"].default == "own"


def every_table() -> list[type[Any]]:
    found: list[type[Any]] = []
    waiting = list(DOCUMENTS.values())
    while waiting:
        cls = waiting.pop()
        if cls not in found:
            found.append(cls)
            waiting.extend(inner for key in keys_of(cls) for inner in tables_in(key.kind))
    return found


def test_every_table_is_reached() -> None:
    assert len(every_table()) >= 25
    assert sum(len(keys_of(cls)) for cls in every_table()) >= 220


@pytest.mark.parametrize("cls", every_table(), ids=lambda cls: cls.__name__)
def test_the_source_says_something_of_every_key(cls: type[Any]) -> None:
    said = {key.name: re.sub("``[^`]*``", "", key.words) for key in keys_of(cls)}
    silent = [name for name, words in said.items() if len(re.sub(r"\W", "", words)) < 5]
    assert silent == [], f"{cls.__name__}: a sentence that begins with the key in double backticks is missing"


def test_the_source_speaks_of_no_key_that_is_not_there() -> None:
    # ``name``: at the beginning of a sentence is a key of the table, or a value of one of its keys.
    stray = []
    for cls in every_table():
        values = re.findall(r"'(\w+)'", str([key.kind for key in keys_of(cls)]))
        known = {key.name for key in keys_of(cls)} | set(values)
        for name in re.findall(r"(?:^|[.;] )``(\w+)``: ", summary_of(cls)):
            if name not in known:
                stray.append(f"{cls.__name__}: {name}")
    assert stray == []
