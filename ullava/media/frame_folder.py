"""A clip as a folder of JPEG frames, the way data sets of masks in videos come: frames in the order of their names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ullava.errors import DataError
from ullava.media.images import stored_frame_of_head, upright_hw
from ullava.resources import is_stray

FRAME_SUFFIXES = (".jpg", ".jpeg")


def frame_files(folder: Path) -> list[Path]:
    """Return the frames of a clip. Raises DataError for a folder without frames or with files that are none."""
    try:
        with os.scandir(folder) as listed:
            entries = {entry.name: entry.is_file() for entry in listed if not is_stray(folder / entry.name)}
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None
    found = {name for name in entries if name.lower().endswith(FRAME_SUFFIXES)}
    if not found:
        raise DataError(f"{folder}: holds no frame (a folder is a clip of .jpg files, in the order of their names)")
    strange = sorted(name for name, plain in entries.items() if not plain or name not in found)
    if strange:
        raise DataError(f"{folder}: '{strange[0]}' is no JPEG frame; a folder that is a clip holds nothing else")
    return [folder / name for name in sorted(found)]


def frame_size_hw(files: Sequence[Path]) -> tuple[int, int]:
    """Return the (height, width) that all frames have, from their heads; DataError where two differ."""
    sizes = [upright_hw(*stored_frame_of_head(file)) for file in files]
    for file, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise DataError(
                f"{file}: has {size[1]} x {size[0]} pixels, {files[0].name} has {sizes[0][1]} x {sizes[0][0]}: "
                "the frames of a clip are of one size"
            )
    return sizes[0]
