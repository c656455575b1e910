"""Folders of pictures and folders of masks or label pictures, joined by file name.

``mask_pairs``: MSRA, DUT-OMRON, DUTS, ECSSD (foreground masks). ``label_folders``: ADE20K's scene parsing release and
COCO-Stuff (class numbers). ``ade_objects``: the full ADE20K release, a JSON with polygons for each picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ullava.data.images import read_label_png
from ullava.data.originals.source import (
    MAX_PROBLEMS,
    PICTURE_SUFFIXES,
    Converted,
    OriginalSource,
    Skipped,
    below,
    files_in,
    picture_size_wh,
    read_json,
    row,
)
from ullava.errors import DataError

MASK_SUFFIXES = (".png", ".bmp")
LABEL_SUFFIXES = (".png",)
PROGRESS_FILES = 500


def mask_pairs_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``salient_png`` record for each mask and its picture of the same name."""
    for picture, mask in joined_by_name(source, MASK_SUFFIXES):
        name = below(picture, source.root)
        yield row({"image_path": name, "label_path": below(mask, source.root)}, name)


def label_folders_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``label_png`` record for each label picture: the classes that it holds, without ``leave_out``.

    Pictures that hold none of them are left out and named. A stored number that is no class is an error.
    """
    names = {number - source.label_offset: (name, number) for number, name in enumerate(source.classes)}
    for picture, labels in _with_bar(list(joined_by_name(source, LABEL_SUFFIXES)), source.annotations.name):
        stored = np.flatnonzero(np.bincount(read_label_png(labels).ravel()))
        numbers = [number for number in stored.tolist() if number != source.ignore_label]
        strange = [number for number in numbers if number not in names]
        if strange:
            raise DataError(f"{labels}: unknown class number {strange[0]}; the class list has {len(names)} classes")
        found = [names[number] for number in numbers if names[number][0] not in source.leave_out]
        name = below(picture, source.root)
        if not found:
            yield Skipped(name, "no pixel of a class that is asked for")
            continue
        classes = [{"class": known, "class_id": number} for known, number in found]
        yield row({"image_path": name, "label_path": below(labels, source.root), "classes": classes}, name)


def ade_objects_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``regions`` record for each JSON of the full ADE20K release: every object that is no part, outlined.

    Names are the first of ADE's synonyms. Objects with an outline of fewer than three points are left out and named.
    """
    for stem, path in files_in(source.annotations, (".json",)).items():
        value = _ade_value(path)
        picture = path.with_name(value.get("filename") or f"{stem}.jpg")
        if not picture.is_file():
            raise DataError(f"{path}: no picture {picture.name} beside it")
        width, height = picture_size_wh(picture)
        names: list[str] = []
        regions: list[dict[str, Any]] = []
        for place, thing in enumerate(value["object"]):
            known = _ade_object(path, place, thing)
            if known is None:
                continue
            name, polygon = known
            if len(polygon) < 6:
                yield Skipped(f"{path.name} object {thing.get('id', place)}", "an outline of fewer than three points")
                continue
            names.append(name)
            regions.append({"height": height, "width": width, "segmentation": [polygon]})
        shown = below(picture, source.root)
        if names:
            yield row({"image_path": shown, "classes": names, "annotations": regions}, shown)
        else:
            yield Skipped(path.name, "no object with an outline")


def joined_by_name(source: OriginalSource, suffixes: tuple[str, ...]) -> Iterator[tuple[Path, Path]]:
    """Yield (picture, mask) with equal stems and equal sizes, by name; DataError lists those without a partner.

    Where pictures and masks share one folder, masks are the PNGs and pictures everything else.
    """
    folder = source.root / source.images
    masks = files_in(source.annotations, suffixes)
    kinds = (
        tuple(kind for kind in PICTURE_SUFFIXES if kind not in suffixes) if _same(folder, source) else PICTURE_SUFFIXES
    )
    pictures = files_in(folder, kinds)
    problems = [f"{masks[stem]}: no picture of this name in {folder}" for stem in masks if stem not in pictures]
    problems += [
        f"{pictures[stem]}: no mask of this name in {source.annotations}" for stem in pictures if stem not in masks
    ]
    for stem, mask in masks.items():
        if len(problems) < MAX_PROBLEMS and stem in pictures:
            problems += _size_problem(pictures[stem], mask)
    if problems:
        more = len(problems) - MAX_PROBLEMS
        raise DataError(problems[:MAX_PROBLEMS] + ([f"... and {more} more"] if more > 0 else []))
    for stem, mask in masks.items():
        yield pictures[stem], mask


def _same(folder: Path, source: OriginalSource) -> bool:
    return folder.resolve() == source.annotations.resolve()


def _size_problem(picture: Path, mask: Path) -> list[str]:
    try:
        shown, drawn = picture_size_wh(picture), picture_size_wh(mask)
    except DataError as error:
        return list(error.problems)
    if shown == drawn:
        return []
    sizes = f"{drawn[0]} x {drawn[1]} pixels (width x height), but {picture.name} has {shown[0]} x {shown[1]}"
    return [f"{mask}: has {sizes}"]


def _with_bar(pairs: list[tuple[Path, Path]], name: str) -> Iterator[tuple[Path, Path]]:
    yield from tqdm(pairs, desc=f"reading {name}", unit="img", disable=len(pairs) < PROGRESS_FILES)


def _ade_value(path: Path) -> dict[str, Any]:
    value = read_json(path)
    inner = value.get("annotation") if isinstance(value, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("object"), list):
        raise DataError(f"{path}: not ADE20K's JSON: 'annotation' with a list 'object' is expected")
    return inner


def _ade_object(path: Path, place: int, thing: Any) -> tuple[str, list[float]] | None:
    """Return name and outline of an object; None for parts of objects."""
    try:
        if thing["parts"]["ispartof"] not in ([], None):
            return None
        xs, ys = thing["polygon"]["x"], thing["polygon"]["y"]
        name = thing["name"]
        flat = [float(number) for pair in zip(xs, ys, strict=True) for number in pair]
        return str(name).split(",")[0].strip(), flat
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: object[{place}]: {type(error).__name__}: {error}") from error
