"""The masks of clips in the two forms that they are published in: one file of run-length codes, or palette images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ullava.data.annotations.json_stream import JsonCursor
from ullava.errors import DataError
from ullava.geometry import Rle, SegmentationError, VideoMasks, rle_encode
from ullava.media.images import read_label_png

VOID = 255
"""What DAVIS writes where nobody decided."""
MASK_SUFFIX = ".png"


def masks_of_file(path: Path, on_read: Callable[[int], object]) -> dict[str, VideoMasks | None]:
    """Return the masks of every object of a ``mask_dict.json``: ``{number: [code or null, one for each frame]}``.

    None for an object that no frame shows: the size is that of its codes. Raises DataError naming file, line, number
    and frame.
    """
    found: dict[str, VideoMasks | None] = {}
    with JsonCursor(path, on_read) as cursor:
        for key in cursor.members():
            line = cursor.line
            codes, _ = cursor.value()
            found[key] = _through(codes, f"{path}:{line}: '{key}'")
        cursor.finish()
    return found


def _through(codes: Any, where: str) -> VideoMasks | None:
    if not isinstance(codes, list) or not all(code is None or isinstance(code, dict) for code in codes):
        raise DataError(f"{where}: has to be a list with a run-length code or null for each frame")
    size = next((code.get("size") for code in codes if code is not None), None)
    if size is None:
        return None
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise DataError(f"{where}: RLE size must be [height, width], not {size!r:.40}")
    try:
        return VideoMasks.from_rles(codes, (size[0], size[1]))
    except SegmentationError as error:
        raise DataError(f"{where}: {error}") from error


@dataclass(frozen=True, slots=True)
class Painted:
    """Objects in the order asked for; ``void`` are the pixels of ``VOID``, None where there is none or nobody asked."""

    objects: list[VideoMasks]
    void: VideoMasks | None


@dataclass(frozen=True, slots=True)
class Palettes:
    """A folder of palette images, one for each annotated frame, whose numbers are objects. ``frames``: all names."""

    folder: Path
    frames: Sequence[str]

    def objects(self, numbers: Sequence[int], void: bool) -> Painted:
        """Read the masks of objects. Frames without an image are unannotated.

        Raises DataError where none of the frames has an image, two differ in size, or one cannot be read.
        """
        codes: dict[int, list[Rle | None]] = {number: [] for number in (*numbers, VOID)}
        unseen: list[int] = []
        size_hw: tuple[int, int] | None = None
        for place, frame in enumerate(self.frames):
            path = self.folder / f"{frame}{MASK_SUFFIX}"
            if not path.is_file():
                unseen.append(place)
                for of_one in codes.values():
                    of_one.append(None)
                continue
            labels = read_label_png(path)
            size_hw = size_hw or (labels.shape[0], labels.shape[1])
            if labels.shape != size_hw:
                raise DataError(
                    f"{path}: has {labels.shape[1]} x {labels.shape[0]} pixels, the ones before it have "
                    f"{size_hw[1]} x {size_hw[0]}"
                )
            shown = set(np.unique(labels).tolist())
            for number, of_one in codes.items():
                of_one.append(rle_encode(labels == number) if number in shown else None)
        if size_hw is None:
            raise DataError(f"{self.folder}: has no mask image of any of the {len(self.frames)} frames")
        masks = {number: VideoMasks.from_rles(of_one, size_hw, unseen) for number, of_one in codes.items()}
        open_pixels = masks[VOID] if void and not masks[VOID].is_absent else None
        return Painted([masks[number] for number in numbers], open_pixels)
