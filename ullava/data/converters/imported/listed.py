"""What the readers of files in COCO's form share: a file that lists images and annotations, and its faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ullava.data.converters.imported.coco_file import CocoFile, ListedImage
from ullava.data.converters.imported.items import FORM, Faults, Item, annotated_size_hw, image_below
from ullava.data.converters.imported.sizes import check_stated_size
from ullava.data.converters.imported.things import ThingReader, has_mask

Size = tuple[int, int]


class ListedReading:
    """Reads what ``file`` lists about the images below ``images``; ``stored_pixels``: see annotated_size_hw."""

    def __init__(self, images: Path, file: CocoFile, faults: Faults, things: ThingReader, stored_pixels: bool) -> None:
        self.images = images
        self.file = file
        self.faults = faults
        self.things = things
        self.stored_pixels = stored_pixels

    def path_of(self, image: ListedImage) -> Path:
        """Return the path of a listed image; DataError for one that leads out of the folder."""
        return image_below(self.images, image.name)

    def size_of(self, path: Path) -> Size:
        """Decode an image and return the (height, width) that its annotations have; DataError names the file."""
        return annotated_size_hw(path, self.stored_pixels)

    def check_size(self, path: Path, size_hw: Size, image: ListedImage, lost: str = "") -> None:
        """Raise DataError where the file says another size; ``lost``: what goes with the image then."""
        check_stated_size(path, size_hw, (image.height, image.width), lost, self.stored_pixels)

    def made(self, path: Path, size_hw: Size, records: tuple[dict[str, Any], ...]) -> Item:
        """Return an image with its records."""
        return Item(image=path, name=path.relative_to(self.images).as_posix(), size_hw=size_hw, records=records)


def has_boxes_alone(file: CocoFile, faults: Faults) -> bool:
    """Return whether a file has boxes and no mask at all, which is noted: it is read for the task rec."""
    boxed = any(entry.value.get("bbox") for entry in file.annotations)
    if not boxed or any(has_mask(entry.value) for entry in file.annotations):
        return False
    faults.note(FORM, str(file.path), "there are boxes and no masks: read for the task rec")
    return True
