"""LabelMe JSON: ReasonSeg's pairs of image and JSON, and LabelMe files in general.

A file is ``{shapes: [{label, points: [[x, y], ...], shape_type}], imagePath?, imageHeight?, imageWidth?}``
(https://github.com/wkentaro/labelme). ReasonSeg adds ``text`` and ``is_sentence``; its shapes are called ``target``,
``ignore`` (neither right nor wrong) and ``flag`` (without meaning) (https://github.com/dvlab-research/LISA).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ullava.data.annotations.encodings import UTF_8, read_text
from ullava.data.annotations.file_names import find_below
from ullava.data.annotations.json_stream import is_finite_number, read_json_text
from ullava.data.converters.published.labelme_shapes import Shape, read_shape
from ullava.data.converters.published.source import (
    IMAGE_SUFFIXES,
    Converted,
    OriginalSource,
    Skipped,
    below,
    files_in,
    image_size_wh,
    row,
)
from ullava.errors import DataError
from ullava.geometry import rle_encode
from ullava.orientation import wrong_size

TARGET, IGNORE, FLAG = "target", "ignore", "flag"
OTHER_ENCODING = "cp1252"
"""Some of ReasonSeg's files are written so, the others in UTF-8."""


def reasonseg_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one ``refer`` record for each JSON of the folder: its questions, its targets as one mask.

    Questions and phrases (``is_sentence`` false) are kept as they stand; a template adds what is wanted. They are the
    groups ``long`` and ``short`` that LISA's tables tell apart. ``first_text``, as LISA's validation has it: a file's
    further texts, which mean the same, are not asked. A file without a target shape, and a shape without an
    area, are left out and named.
    """
    facts["sentences"] = 0
    for stem, path in files_in(source.annotations, (".json",)).items():
        value = read_labelme(path, fallback=OTHER_ENCODING)
        image = _image_of(path, stem)
        width, height = image_size_wh(image)
        stated = (value.get("imageHeight"), value.get("imageWidth"))
        if all(map(is_finite_number, stated)) and stated != (height, width):
            yield Skipped(path.name, wrong_size(image, (height, width), stated, "the file says"))
            continue
        shapes: list[tuple[str, Shape]] = []
        for made in _labeled(path, value):
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
        texts = texts[:1] if source.first_text else texts
        name = below(image, source.root)
        record: dict[str, Any] = {"image_path": name, "height": height, "width": width, "category": TARGET}
        record |= {"sentences": texts, **_painted(path, shapes, height, width)}
        long = bool(value.get("is_sentence", False))
        record |= {"is_sentence": long, "groups": ["long" if long else "short"]}
        facts["sentences"] += len(texts)
        yield row(record, name)


def read_labelme(path: Path, encoding: str = UTF_8, fallback: str | None = None) -> dict[str, Any]:
    """Read one LabelMe file; DataError names file and line.

    ``fallback``: the encoding of files that are not of the first one, where a data set is known to mix the two.
    """
    try:
        text = read_text(path, encoding)
    except DataError:
        if fallback is None:
            raise
        text = read_text(path, fallback)
    value = read_json_text(path, text)
    if not isinstance(value, dict) or not isinstance(value.get("shapes"), list):
        raise DataError(f"{path}: not LabelMe: an object with a list 'shapes' is expected")
    return value


def _labeled(path: Path, value: dict[str, Any]) -> Iterator[tuple[str, Shape] | Skipped]:
    """Yield ``target`` or ``ignore`` with the area of each shape that means something, in the order of the file.

    LISA's own rule: a label with ``ignore`` in it is ignored, ``flag`` means nothing, everything else is a target.
    """
    for place, shape in enumerate(value["shapes"]):
        label = shape.get("label") if isinstance(shape, Mapping) else None
        if isinstance(label, str) and label.lower() == FLAG:
            continue
        try:
            found = read_shape(shape)
        except DataError as error:
            yield Skipped(f"{path.name} shapes[{place}]", str(error))
            continue
        yield IGNORE if IGNORE in found.label.lower() else TARGET, found


def _painted(path: Path, shapes: list[tuple[str, Shape]], height: int, width: int) -> dict[str, Any]:
    """Return ``segmentation`` and, where there is any, ``ignore``.

    As LISA does it, shapes are painted from the largest to the smallest, so that of two that overlap the smaller shows.
    """
    if all(label == TARGET and shape.polygon for label, shape in shapes):
        return {"segmentation": [shape.polygon for _, shape in shapes]}
    try:
        masks = [(label, shape.mask((height, width))) for label, shape in shapes]
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    canvas = np.zeros((height, width), np.uint8)
    for label, mask in sorted(masks, key=lambda entry: -int(entry[1].sum())):
        canvas[mask] = 1 if label == TARGET else 2
    hidden = not (canvas == 2).any()
    return {"segmentation": rle_encode(canvas == 1)} | ({} if hidden else {"ignore": rle_encode(canvas == 2)})


def _image_of(path: Path, stem: str) -> Path:
    for suffix in IMAGE_SUFFIXES:
        image = find_below(path.parent, stem + suffix)
        if image.is_file():
            return image
    raise DataError(f"{path}: no image {stem}.jpg beside it")
