"""LabelMe JSON: ReasonSeg's pairs of picture and JSON, and the shapes of LabelMe in general.

A file is ``{shapes: [{label, points: [[x, y], ...], shape_type}], imagePath?, imageHeight?, imageWidth?}``
(https://github.com/wkentaro/labelme). ReasonSeg adds ``text`` and ``is_sentence``; its shapes are called ``target``,
``ignore`` (neither right nor wrong) and ``flag`` (without meaning) (https://github.com/dvlab-research/LISA).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ullava.data.originals.source import (
    PICTURE_SUFFIXES,
    Converted,
    OriginalSource,
    Skipped,
    below,
    files_in,
    picture_size_wh,
    row,
)
from ullava.errors import DataError, did_you_mean
from ullava.geometry import polygons_to_mask, rle_encode

TARGET, IGNORE, FLAG = "target", "ignore", "flag"
CIRCLE_CORNERS = 36
SHAPE_TYPES = ("polygon", "rectangle", "circle", "linestrip", "line", "point", "points", "mask")
_AREA_TYPES = ("polygon", "rectangle", "circle")


def reasonseg_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``refer`` record for each JSON of the folder: its questions, its targets as one mask.

    Questions and phrases (``is_sentence`` false) are kept as they stand; a template adds what is wanted. A file without
    a target shape, and a shape without an area, are left out and named.
    """
    facts["sentences"] = 0
    for stem, path in files_in(source.annotations, (".json",)).items():
        value = read_labelme(path)
        picture = _picture_of(path, stem)
        width, height = picture_size_wh(picture)
        shapes: list[tuple[str, list[float]]] = []
        for made in _labelled(path, value):
            if isinstance(made, Skipped):
                yield made
            else:
                shapes.append(made)
        texts = value.get("text")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
            raise DataError(f"{path}: 'text' has to be a list of strings, with at least one and none of them blank")
        if all(label != TARGET for label, _ in shapes):
            yield Skipped(path.name, "no target shape")
            continue
        name = below(picture, source.root)
        record: dict[str, Any] = {"image_path": name, "height": height, "width": width, "category": TARGET}
        record |= {"sentences": texts, **_painted(path, shapes, height, width)}
        record |= {"is_sentence": bool(value.get("is_sentence", False))}
        facts["sentences"] += len(texts)
        yield row(record, name)


def read_labelme(path: Path) -> dict[str, Any]:
    """Read one LabelMe file (UTF-8, or cp1252 as some of ReasonSeg's are); DataError names file and line."""
    try:
        raw = path.read_bytes()
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = raw.decode("cp1252")
        value = json.loads(text)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON: {error.msg} (is it cut off?)") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON text ({error})") from error
    if not isinstance(value, dict) or not isinstance(value.get("shapes"), list):
        raise DataError(f"{path}: not LabelMe: an object with a list 'shapes' is expected")
    return value


def shape_polygon(shape: Any, where: str) -> tuple[str, list[float]]:
    """Return a shape's label and its outline as flat x, y, ... in pixels.

    Rectangles and circles become polygons. Raises DataError for shapes without an area (line, point), a mask that is
    pasted in, a polygon of fewer than three points, and coordinates that are not finite numbers.
    """
    if not isinstance(shape, Mapping):
        raise DataError(f"{where}: a shape is an object, not {type(shape).__name__}")
    label, kind = shape.get("label"), shape.get("shape_type") or "polygon"
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"{where}: 'label' has to be text that is not blank")
    if kind not in SHAPE_TYPES:
        raise DataError(f"{where} ('{label}'): shape_type '{kind}' is not known{did_you_mean(str(kind), SHAPE_TYPES)}")
    if kind not in _AREA_TYPES:
        raise DataError(f"{where} ('{label}'): a {kind} has no outline; draw a polygon, a rectangle or a circle")
    points = shape.get("points")
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise DataError(f"{where} ('{label}'): 'points' has to be a list of [x, y]")
    needed = 3 if kind == "polygon" else 2
    if len(points) < needed or (kind != "polygon" and len(points) != 2):
        raise DataError(
            f"{where} ('{label}'): a {kind} needs {needed} points{' or more' * (needed == 3)}, "
            f"this one has {len(points)}"
        )
    return label.strip(), list(_outline(kind, points))


def _outline(kind: str, points: list[list[float]]) -> Iterator[float]:
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points
        points = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    elif kind == "circle":
        (x, y), (edge_x, edge_y) = points
        radius = math.hypot(edge_x - x, edge_y - y)
        turns = [2 * math.pi * corner / CIRCLE_CORNERS for corner in range(CIRCLE_CORNERS)]
        points = [[x + radius * math.cos(turn), y + radius * math.sin(turn)] for turn in turns]
    for point in points:
        yield from (float(number) for number in point)


def _is_point(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in value)


def _labelled(path: Path, value: dict[str, Any]) -> Iterator[tuple[str, list[float]] | Skipped]:
    """Yield ``target`` or ``ignore`` with the outline of each shape that means something, in the order of the file.

    LISA's own rule: a label with ``ignore`` in it is ignored, ``flag`` means nothing, everything else is a target.
    """
    for place, shape in enumerate(value["shapes"]):
        label = shape.get("label") if isinstance(shape, Mapping) else None
        if isinstance(label, str) and label.lower() == FLAG:
            continue
        try:
            name, polygon = shape_polygon(shape, f"{path}: shapes[{place}]")
        except DataError as error:
            yield Skipped(f"{path.name} shapes[{place}]", str(error).split(": ", 2)[-1])
            continue
        yield IGNORE if IGNORE in name.lower() else TARGET, polygon


def _painted(path: Path, shapes: list[tuple[str, list[float]]], height: int, width: int) -> dict[str, Any]:
    """Return ``segmentation`` and, where there is any, ``ignore``.

    As LISA does it, shapes are painted from the largest to the smallest, so that of two that overlap the smaller shows.
    """
    if all(label == TARGET for label, _ in shapes):
        return {"segmentation": [polygon for _, polygon in shapes]}
    try:
        masks = [(label, polygons_to_mask([polygon], height, width)) for label, polygon in shapes]
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    canvas = np.zeros((height, width), np.uint8)
    for label, mask in sorted(masks, key=lambda entry: -int(entry[1].sum())):
        canvas[mask] = 1 if label == TARGET else 2
    hidden = not (canvas == 2).any()
    return {"segmentation": rle_encode(canvas == 1)} | ({} if hidden else {"ignore": rle_encode(canvas == 2)})


def _picture_of(path: Path, stem: str) -> Path:
    for suffix in PICTURE_SUFFIXES:
        picture = path.with_name(stem + suffix)
        if picture.is_file():
            return picture
    raise DataError(f"{path}: no picture {stem}.jpg beside it")
