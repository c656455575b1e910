"""A folder of mask images: class numbers (semantic classes) or one foreground object (salient objects)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ullava.data.converters.imported.classes import ClassList
from ullava.data.converters.imported.items import Faults, Import, Item, annotated_size_hw, one_file
from ullava.data.converters.published.source import IMAGE_SUFFIXES, files_in
from ullava.errors import DataError
from ullava.media.images import read_label_png
from ullava.orientation import missed_turn
from ullava.text.phrases import name_fault

IGNORED = 255
BACKGROUND = 0
MAX_CLASSES = 254


def read_masks(
    images: Path,
    masks: Path,
    labels: Mapping[int, str],
    *,
    ignore: frozenset[int] = frozenset(),
    background: frozenset[int] = frozenset({BACKGROUND}),
    salient: bool = False,
    classes: Sequence[str] | None = None,
    stored_pixels: bool = False,
) -> Import:
    """Join images and masks by file name.

    ``labels``: what each stored value is called; ``ignore``: values that count for nobody (a border); ``background``:
    values that nobody asks for. Every other value is a fault. The masks are rewritten: 1, 2, ... in the order of
    ``labels``, or of ``classes`` where these are given, 0 background, 255 ignored. ``salient``: what ``labels`` names
    is one object, written as white on black, and ignored pixels are black. ``stored_pixels``: see annotated_size_hw.

    Faults: an image without a mask or the other way round, one that is unreadable, sizes that differ, unknown values.
    A mask that holds none of the classes is named, but is no fault. Raises DataError for settings that contradict each
    other.
    """
    if salient and classes is not None:
        raise DataError("--classes: salient-object data has no classes")
    listed = ClassList(labels.values() if classes is None else classes, closed=True)
    numbers = _numbers(labels, listed, ignore, background)
    faults = Faults()
    names = listed.names
    seen: dict[str, Path] = {}
    items: list[Item] = []
    for image, mask in joined_by_name(images, masks, (".png",), faults):
        with faults.noting(str(mask)):
            first = seen.setdefault(one_file(image), mask)
            if first != mask:
                raise DataError(f"{image.name} is the image of {first.name} too; which mask is meant?")
            size = annotated_size_hw(image, stored_pixels)
            stored = read_label_png(mask)
            if stored.shape != size:
                found = f"{stored.shape[1]} x {stored.shape[0]} pixels (width x height)"
                reason = missed_turn(image, size, stored.shape, stored_pixels)
                raise DataError(f"has {found}, but {image.name} has {size[1]} x {size[0]}{reason}")
            written = _renumbered(stored, labels, numbers, ignore, background)
            present = [number for number in range(1, len(names) + 1) if (written == number).any()]
            if not present:
                faults.leave(str(mask), "no pixel of a class")
                continue
            record: dict[str, Any] = {}
            if salient:
                written = np.where((written > 0) & (written != IGNORED), 255, 0).astype(np.uint8)
            else:
                record["classes"] = [{"class": names[number - 1], "class_id": number} for number in present]
            label = png_bytes(written)
            items.append(Item(image=image, name=image.name, size_hw=size, records=(record,), label_png=label))
    if salient:
        return Import(layout="salient_png", task="salient", items=items, faults=faults)
    return Import(
        layout="label_png",
        task="semantic",
        items=items,
        classes=names,
        ignore_label=IGNORED if ignore else None,
        faults=faults,
    )


def joined_by_name(images: Path, masks: Path, suffixes: Sequence[str], faults: Faults) -> Iterator[tuple[Path, Path]]:
    """Yield (image, mask) of equal names; a file without its other half is a fault.

    Where both are in one folder, masks are the PNGs and images everything else.
    """
    one_folder = images.resolve() == masks.resolve()
    drawn = files_in(masks, (".png",) if one_folder else suffixes)
    image_files = files_in(images, [suffix for suffix in IMAGE_SUFFIXES if not (one_folder and suffix == ".png")])
    for stem in sorted(set(drawn) ^ set(image_files)):
        lone, folder = (drawn[stem], images) if stem in drawn else (image_files[stem], masks)
        faults.add(str(lone), f"nothing of this name is in {folder}")
    for stem in sorted(set(drawn) & set(image_files)):
        yield image_files[stem], drawn[stem]


def _numbers(
    labels: Mapping[int, str], classes: ClassList, ignore: frozenset[int], background: frozenset[int]
) -> dict[int, int]:
    """Return the class number (from 1) of each stored value; DataError for settings that contradict each other."""
    problems = []
    numbers: dict[int, int] = {}
    if not labels:
        problems.append("--labels: name at least one value, for example 1=pet")
    problems += [f"--labels: '{name}' {fault}" for name in labels.values() if (fault := name_fault(name))]
    for value, name in labels.items():
        try:
            numbers[value] = classes.number(name)
        except DataError as error:
            problems.append(f"--labels: {error}")
    if len(classes.names) > MAX_CLASSES:
        problems.append(f"--labels: {len(classes.names)} classes; at most {MAX_CLASSES} fit")
    for number in sorted((set(labels) & ignore) | (set(labels) & background) | (ignore & background)):
        problems.append(f"value {number} is given two meanings among --labels, --ignore and --background")
    if problems:
        raise DataError(problems)
    return numbers


def _renumbered(
    stored: NDArray[np.int32],
    labels: Mapping[int, str],
    numbers: Mapping[int, int],
    ignore: frozenset[int],
    background: frozenset[int],
) -> NDArray[np.uint8]:
    """Return the mask in our numbers; DataError for a value without a meaning."""
    written = np.zeros(stored.shape, np.uint8)
    for value in np.unique(stored).tolist():
        if value in numbers:
            written[stored == value] = numbers[value]
        elif value in ignore:
            written[stored == value] = IGNORED
        elif value not in background:
            known = ", ".join(f"{number}={name}" for number, name in sorted(labels.items()))
            raise DataError(
                f"holds the value {value}, which has no meaning; known: {known}; see --ignore, --background"
            )
    return written


def png_bytes(array: NDArray[np.uint8]) -> bytes:
    """Return a gray image [H, W] as the content of a PNG."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return file.getvalue()
