"""Folders of images and folders of masks or label images, joined by file name.

``mask_pairs``: MSRA, DUT-OMRON, DUTS, ECSSD (foreground masks). ``label_folders``: ADE20K's scene parsing release and
COCO-Stuff (class numbers). ``ade_objects``: the full ADE20K release, a JSON with polygons for each image.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from tqdm import tqdm

from ullava.data.converters.published.source import (
    IMAGE_SUFFIXES,
    Converted,
    OriginalSource,
    Skipped,
    below,
    files_in,
    image_size_wh,
    read_json,
    row,
)
from ullava.errors import DataError
from ullava.media.images import read_label_png
from ullava.orientation import missed_turn

MASK_SUFFIXES = (".png", ".bmp")
LABEL_SUFFIXES = (".png",)
PROGRESS_FILES = 500


def mask_pairs_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``salient_png`` record for each mask and its image of the same name."""
    for pair in _with_bar(list(joined_by_name(source, MASK_SUFFIXES)), source.annotations.name):
        if isinstance(pair, Skipped):
            yield pair
            continue
        image, mask = pair
        name = below(image, source.root)
        yield row({"image_path": name, "label_path": below(mask, source.root)}, name)


def label_folders_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``label_png`` record for each label image: the classes that it holds, without ``leave_out``.

    Images that hold none of them, and files that cannot be read, are left out and named. A stored number that is no
    class is an error: then the class list is not that of the files.
    """
    names = {number - source.label_offset: (name, number) for number, name in enumerate(source.classes)}
    for pair in _with_bar(list(joined_by_name(source, LABEL_SUFFIXES)), source.annotations.name):
        if isinstance(pair, Skipped):
            yield pair
            continue
        image, labels = pair
        try:
            stored = np.flatnonzero(np.bincount(read_label_png(labels).ravel()))
        except DataError:
            yield Skipped(below(labels, source.root), "the mask cannot be read")
            continue
        numbers = [number for number in stored.tolist() if number != source.ignore_label]
        strange = [number for number in numbers if number not in names]
        if strange:
            raise DataError(f"{labels}: unknown class number {strange[0]}; the class list has {len(names)} classes")
        found = [names[number] for number in numbers if names[number][0] not in source.leave_out]
        name = below(image, source.root)
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
        image = path.with_name(value.get("filename") or f"{stem}.jpg")
        if not image.is_file():
            raise DataError(f"{path}: no image {image.name} beside it")
        width, height = image_size_wh(image)
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
        shown = below(image, source.root)
        if names:
            yield row({"image_path": shown, "classes": names, "annotations": regions}, shown)
        else:
            yield Skipped(path.name, "no object with an outline")


def joined_by_name(source: OriginalSource, suffixes: tuple[str, ...]) -> Iterator[tuple[Path, Path] | Skipped]:
    """Yield (image, mask) with equal stems and equal sizes, by name; what has no partner is left out and named.

    Where images and masks share one folder, masks are the PNGs and images everything else. ``companion`` lists the
    images of this split, a line each, with or without the ending of their names; without it, all are taken.
    """
    folder = source.root / source.images
    masks = files_in(source.annotations, suffixes)
    same = folder.resolve() == source.annotations.resolve()
    images = files_in(folder, [kind for kind in IMAGE_SUFFIXES if not (same and kind in suffixes)])
    wanted = source.listed()
    if wanted is not None:
        stems = {_stem(name): line for name, line in wanted.items()}
        images = {stem: path for stem, path in images.items() if stem in stems}
        masks = {stem: path for stem, path in masks.items() if stem in stems}
        for stem in stems.keys() - images.keys() - masks.keys():
            raise DataError(f"{source.companion}:{stems[stem]}: neither image nor mask is called '{stem}'")
    for stem in sorted(images.keys() - masks.keys()):
        yield Skipped(below(images[stem], source.root), "no mask of this name")
    for stem, mask in masks.items():
        reason = "no image of this name"
        if stem in images:
            reason = _misfit(images[stem], mask)
        if reason:
            yield Skipped(below(mask, source.root), reason)
        else:
            yield images[stem], mask


def _stem(name: str) -> str:
    """Return a listed name without the ending of an image."""
    path = PurePath(unicodedata.normalize("NFC", name))
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name


def _misfit(image: Path, mask: Path) -> str:
    """Return why the two do not go together; '' where they do."""
    sizes: list[tuple[int, int]] = []
    for path in (image, mask):
        try:
            sizes.append(image_size_wh(path, stored=path == mask)[::-1])
        except DataError:
            return f"the {'mask' if path == mask else 'image'} cannot be read"
    if sizes[0] == sizes[1]:
        return ""
    return f"mask and image have different sizes{missed_turn(image, sizes[0], sizes[1])}"


def _with_bar(pairs: list[tuple[Path, Path] | Skipped], name: str) -> Iterator[tuple[Path, Path] | Skipped]:
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
