"""Referring expressions as their authors publish them: ``refs(*).p`` or ``grefs(*).json`` with ``instances.json``.

RefCOCO, RefCOCO+, RefCOCOg and RefCLEF: a list of ``{ref_id, ann_id, image_id, split, sentences: [{sent}]}``, one for
an object (https://github.com/lichengunc/refer). gRefCOCO: the same with ``ann_id`` a list, and ``no_target`` where
nothing is meant (https://github.com/henghuiding/gRefCOCO). Image names, sizes, masks and
boxes are in ``instances.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ullava.data.annotations.encodings import UTF_8
from ullava.data.annotations.json_stream import iter_object_lists
from ullava.data.converters.published.pickles import is_pickle, read_plain_pickle
from ullava.data.converters.published.source import (
    MAX_PROBLEMS,
    Converted,
    OriginalSource,
    Skipped,
    chosen_part,
    is_in_part,
    read_json,
    row,
)
from ullava.errors import DataError, did_you_mean
from ullava.text.phrases import expression_fault

_PARTS = ("segmentation", "bbox")
NO_OBJECT = (-1, "-1")
"""gRefCOCO's ``ann_id`` of an expression that means nothing."""


Id = int | str


class Ref(NamedTuple):
    """One checked entry of the list: which objects, in which image, in which words. ``place`` is its number."""

    place: int
    ref_id: Id
    image_id: Id
    annotation_ids: tuple[Id, ...]
    sentences: list[str]
    no_target: bool


def refs_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``refer`` record for each object of the part; see ``ullava.data.readers.refer``."""
    refs, blank = spoken(entries_of(source, read_entries(source.annotations), several=False))
    yield from blank
    for ref, image, parts in _joined(source, refs, facts, on_read):
        (found,) = parts
        yield row(image | found | {"sentences": ref.sentences, "ref_id": ref.ref_id}, image["image_path"])


def grefs_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``grefer`` record for each group of expressions of the part; see ``ullava.data.readers.refer``."""
    refs, blank = spoken(entries_of(source, read_entries(source.annotations), several=True))
    yield from blank
    for ref, image, parts in _joined(source, refs, facts, on_read):
        about = {"sentences": ref.sentences, "no_target": ref.no_target, "ref_id": ref.ref_id}
        yield row(image | about | {"annotations": parts}, image["image_path"])


def read_entries(path: Path, encoding: str = UTF_8) -> Any:
    """Return what a file of expressions holds: a pickle, read without running anything in it, or JSON; DataError."""
    return read_plain_pickle(path) if is_pickle(path) else read_json(path, nan=True, encoding=encoding)


def spoken(refs: Iterable[Ref]) -> tuple[list[Ref], list[Skipped]]:
    """Return the entries with the expressions that can be asked, and what was left out.

    Left out are expressions that are blank or hold special tokens, and entries that have no other.
    """
    kept: list[Ref] = []
    left: list[Skipped] = []
    for ref in refs:
        faults = [expression_fault(sentence) if sentence else "blank" for sentence in ref.sentences]
        reasons = ["a blank expression" if fault == "blank" else f"an expression {fault}" for fault in faults if fault]
        left += [Skipped(f"ref_id {ref.ref_id}", reason) for reason in reasons]
        said = [sentence for sentence, fault in zip(ref.sentences, faults, strict=True) if not fault]
        if said:
            kept.append(ref._replace(sentences=said))
        else:
            left.append(Skipped(f"ref_id {ref.ref_id}", "no expression"))
    return kept, left


def _whole_number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def entries_of(
    source: OriginalSource,
    value: Any,
    several: bool,
    id_of: Callable[[Any], Id | None] = _whole_number,
    on_problem: Callable[[str, str], object] | None = None,
) -> Iterator[Ref]:
    """Check the list and yield what belongs to the part.

    ``id_of`` returns an id, or None for what is none. Every fault is told to ``on_problem`` (the entry's name,
    the reason); without it DataError is raised with all of them (up to a limit).
    """
    if not isinstance(value, list):
        source.fail(f"a list of expressions is expected, not {type(value).__name__}")
    part = chosen_part(source, value, "expressions")
    problems: list[str] = []
    for place, entry in enumerate(value):
        try:
            if is_in_part(entry, part):
                yield _ref(place, entry, several, id_of)
        except (KeyError, TypeError, ValueError) as error:
            reason = str(error)
            if isinstance(error, KeyError):
                reason = f"no '{error.args[0]}'{did_you_mean(str(error.args[0]), entry)}"
            name = f"{source.annotations}: entry {place}"
            if on_problem is not None:
                on_problem(name, reason)
                continue
            problems.append(f"{name}: {reason}")
            if len(problems) >= MAX_PROBLEMS:
                break
    if problems:
        raise DataError(problems)


def _ref(place: int, entry: Any, several: bool, id_of: Callable[[Any], Id | None]) -> Ref:
    given = entry["ann_id"]
    numbers = [id_of(number) for number in (given if several and isinstance(given, list) else [given])]
    image_id, ref_id = id_of(entry["image_id"]), id_of(entry["ref_id"])
    whole = [number for number in numbers if number is not None]
    if len(whole) < len(numbers) or image_id is None or ref_id is None:
        raise TypeError("'ann_id', 'image_id' and 'ref_id' have to be whole numbers")
    sentences = _sentences(entry["sentences"])
    no_target = bool(entry.get("no_target", False)) if several else False
    ids = tuple(number for number in whole if number not in NO_OBJECT)
    if no_target == bool(ids):
        raise ValueError(f"'no_target' is {str(no_target).lower()}, but 'ann_id' is {given}")
    return Ref(place, ref_id, image_id, ids, sentences, no_target)


def _sentences(value: Any) -> list[str]:
    """Return the expressions: ``[{sent}]`` as the authors have it, plain texts, or one text."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list):
        raise TypeError(f"'sentences' has to be a list of expressions, not {type(value).__name__}")
    texts = []
    for one in given:
        text = one["sent"] if isinstance(one, dict) else one
        if not isinstance(text, str):
            key = "'sent'" if isinstance(one, dict) else "an entry of 'sentences'"
            raise TypeError(f"{key} has to be text, not {type(text).__name__}")
        texts.append(text.strip())
    return texts


def _joined(
    source: OriginalSource, refs: list[Ref], facts: dict[str, Any], on_read: Callable[[int], object]
) -> Iterator[tuple[Ref, dict[str, Any], list[dict[str, Any]]]]:
    """Join expressions with image and annotations; raises DataError for ids that ``instances.json`` does not have."""
    path = source.other()
    images = {ref.image_id for ref in refs}
    wanted = {number for ref in refs for number in ref.annotation_ids}
    heads, bodies = _instances(source, path, images, wanted, on_read)
    problems = []
    for ref in refs:
        absent = [f"ann_id {number}" for number in ref.annotation_ids if number not in bodies]
        absent += [f"image_id {ref.image_id}"] if ref.image_id not in heads else []
        absent += [
            f"ann_id {number} of another image"
            for number in ref.annotation_ids
            if number in bodies and bodies[number][0] != ref.image_id
        ]
        if absent:
            problems.append(f"{source.annotations}: entry {ref.place}: {path.name} has no {', '.join(absent)}")
        if len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise DataError(problems)
    facts["sentences"] = sum(len(ref.sentences) for ref in refs)
    for ref in refs:
        yield ref, heads[ref.image_id], [bodies[number][1] for number in ref.annotation_ids]


def _instances(
    source: OriginalSource, path: Path, images: set[Id], wanted: set[Id], on_read: Callable[[int], object]
) -> tuple[dict[Id, dict[str, Any]], dict[Id, tuple[Id, dict[str, Any]]]]:
    """Read what is needed of ``instances.json``: images by id, and (image id, annotation) by id."""
    heads: dict[Id, dict[str, Any]] = {}
    bodies: dict[Id, tuple[Id, dict[str, Any]]] = {}
    category_of: dict[Id, tuple[int, str]] = {}
    names: dict[int, str] = {}
    for key, record in iter_object_lists(path, ("images", "annotations", "categories"), on_read):
        value, where = record.value, f"{path}:{record.line}: {key}[{record.number}]"
        try:
            if key == "images" and value["id"] in images:
                size = {"height": value["height"], "width": value["width"]}
                heads[value["id"]] = {"image_path": source.image(value["file_name"]), **size}
            elif key == "categories":
                names[value["id"]] = value["name"]
            elif key == "annotations" and value["id"] in wanted:
                bodies[value["id"]] = (value["image_id"], {part: value[part] for part in _PARTS if part in value})
                category_of[value["id"]] = (value["category_id"], where)
        except KeyError as error:
            raise DataError(f"{where}: no '{error.args[0]}'{did_you_mean(str(error.args[0]), value)}") from error
        except (TypeError, AttributeError) as error:
            raise DataError(f"{where}: a field has the wrong kind of value ({error})") from error
    problems = []
    for number, (category, where) in category_of.items():
        if category not in names:
            problems.append(f"{where}: unknown category_id {category}")
        else:
            bodies[number][1]["category"] = names[category]
    if problems:
        raise DataError(problems[:MAX_PROBLEMS])
    return heads, bodies
