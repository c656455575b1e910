"""Images beside their annotations, for formats whose readers want both in one folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ullava.errors import DataError
from ullava.exports.collection import Collection


def place_images(collection: Collection, folder: Path, *, link: bool) -> None:
    """Copy every image into ``folder`` under its ``file_name``, or link to it.

    Raises:
        DataError: one line for each image that was not found.
    """
    missing = [image.given for image in collection.images if image.path is None]
    if missing:
        raise DataError([f"{name}: no such image (--images DIR looks in another folder)" for name in missing])
    folder.mkdir(parents=True, exist_ok=True)
    for image in collection.images:
        if image.path is None:
            continue
        if link:
            os.symlink(image.path.resolve(), folder / image.file_name)
        else:
            shutil.copyfile(image.path, folder / image.file_name)
