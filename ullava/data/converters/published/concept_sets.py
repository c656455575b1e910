"""GroundingSuite's evaluation list and SA-Co: expressions with masks in JSON.

GroundingSuite (2503.10596, github.com/hustvl/GroundingSuite): a line is ``{idx, image_path, caption, label, class_id,
box, segmentation}``; the box is x0, y0, x1, y1 in pixels, the mask COCO's run-length code. SA-Co (2511.16719,
github.com/facebookresearch/sam3, scripts/eval/gold): COCO's form in which an "image" is a pair of a picture and a noun
phrase; boxes and areas in it are fractions of the picture, masks are not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from ullava.data.annotations.json_stream import iter_object_lists, iter_records
from ullava.data.converters.published.parquet import fields_of, run_lengths, said_of
from ullava.data.converters.published.source import Converted, OriginalSource, Skipped, row
from ullava.data.readers.record import are_numbers
from ullava.errors import DataError, did_you_mean

ORACLE, FIRST = "oracle", "_merged_a_"
"""``part`` of a split in which all three annotators count, and what the first one's file has in its name."""
_OF_PAIRS = ("id", "file_name", "text_input", "height", "width")
_OF_MASKS = ("image_id", "segmentation")


def grounding_suite_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``refer`` record for each line; its group is ``class N``, as the authors' program tells its figures."""
    facts["sentences"] = 0
    for number, line, _, value in iter_records(source.annotations, on_read):
        here = f"{source.annotations}:{line}: record {number}"
        try:
            name, caption, label = value["image_path"], value["caption"], value["label"]
            box, mask, kind = value["box"], value["segmentation"], value["class_id"]
        except KeyError as error:
            raise DataError(f"{here}: no '{error.args[0]}'{did_you_mean(str(error.args[0]), value)}") from error
        if not isinstance(name, str) or not are_numbers(box, 4):
            raise DataError(f"{here}: 'image_path' has to be a name and 'box' four numbers: x0, y0, x1, y1")
        size: Any = mask.get("size") if isinstance(mask, dict) else None
        if not are_numbers(size, 2):
            raise DataError(f"{here}: 'segmentation' has to be run lengths with 'size': height, width")
        where = f"line {line}"
        said, thing = said_of(where, caption), said_of(where, label)
        coded = run_lengths(where, mask, (size[0], size[1]))
        faults = [part for part in (said, thing, coded) if isinstance(part, Skipped)]
        if faults:
            yield faults[0]
            continue
        facts["sentences"] += 1
        x0, y0, x1, y1 = box
        shown = source.image(name)
        record = {"image_path": shown, "height": size[0], "width": size[1], "sentences": [said], "category": thing}
        record |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": coded, "groups": [f"class {kind}"]}
        yield row(record, shown, line)


def annotators(source: OriginalSource) -> list[Path]:
    """Return the files of a split of SA-Co: its own, and with ``part`` ORACLE those of the two other annotators too."""
    first = source.annotations
    if source.part != ORACLE:
        return [first]
    return [first.with_name(first.name.replace(FIRST, f"_merged_{letter}_")) for letter in "abc"]


def sa_co_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``grefer`` record for each pair of a picture and a phrase: a mask for every instance, or none.

    Pairs whose instances are not all annotated (``is_instance_exhaustive``) are left out, as the authors' program does;
    it passes over crowd regions too. What the other ``annotators`` found is ``alternatives``; all three files have the
    same pairs. Raises DataError for a file that is not there or lacks a field or a pair.
    """
    facts["sentences"] = 0
    (pairs, masks), *others = [_pairs_and_masks(path, on_read) for path in annotators(source)]
    for number, (line, pair) in pairs.items():
        here, size = f"id {number}", (pair["height"], pair["width"])
        for path, (told, _) in zip(annotators(source)[1:], others, strict=True):
            if number not in told:
                raise DataError(f"{path}: has no {here} of {source.annotations.name}")
        every = [pair, *(told[number][1] for told, _ in others)]
        if not all(one.get("is_instance_exhaustive", True) for one in every):
            yield Skipped(here, "not every instance is annotated")
            continue
        said = said_of(here, pair["text_input"])
        found = [
            [run_lengths(here, mask, size) for mask in held.get(number, ())]
            for held in (masks, *(m for _, m in others))
        ]
        faults = [part for part in (said, *chain.from_iterable(found)) if isinstance(part, Skipped)]
        if faults:
            yield faults[0]
            continue
        facts["sentences"] += 1
        shown = source.image(str(pair["file_name"]))
        own, *alternatives = [[{"segmentation": mask, "category": said} for mask in things] for things in found]
        record = {"image_path": shown, "height": size[0], "width": size[1], "sentences": [said]}
        record |= {"no_target": not own, "annotations": own}
        yield row(record | ({"alternatives": alternatives} if alternatives else {}), shown, line)


def _pairs_and_masks(
    path: Path, on_read: Callable[[int], object]
) -> tuple[dict[Any, tuple[int, dict[str, Any]]], dict[Any, list[Any]]]:
    """Return (line, pair) and masks by the number of the pair."""
    pairs: dict[Any, tuple[int, dict[str, Any]]] = {}
    masks: dict[Any, list[Any]] = defaultdict(list)
    if not path.is_file():
        raise DataError(f"{path}: no such annotation file")
    for key, record in iter_object_lists(path, ("images", "annotations"), on_read):
        value = record.value
        needed = _OF_PAIRS if key == "images" else _OF_MASKS
        for name in needed:
            if name not in value:
                where = f"{path}:{record.line}: {key}[{record.number}]"
                raise DataError(f"{where}: no '{name}'{did_you_mean(name, value)}")
        if key == "images":
            with fields_of(f"{path}:{record.line}: {key}[{record.number}]"):
                pairs[value["id"]] = record.line, value
        elif not value.get("iscrowd"):
            with fields_of(f"{path}:{record.line}: {key}[{record.number}]"):
                masks[value["image_id"]].append(value["segmentation"])
    return pairs, masks
