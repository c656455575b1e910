"""A folder of masks, white on black, of the one object that stands out, read as readers of salient data do."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ullava.data.converters.imported.items import Faults, Import, Item, annotated_size_hw
from ullava.data.converters.imported.masks import joined_by_name, png_bytes
from ullava.data.converters.published.source import IMAGE_SUFFIXES
from ullava.errors import DataError
from ullava.media.images import read_foreground
from ullava.orientation import missed_turn

WHITE = 255


def read_foregrounds(images: Path, masks: Path, *, stored_pixels: bool = False) -> Import:
    """Join images and masks by file name; what is brighter than half of the range is the object.

    Soft edges, JPEG and three equal channels are ordinary. Faults: an image without a mask or the other way round, one
    that is unreadable, a mask in colors, sizes that differ. A mask without an object is named, but is no fault.
    ``stored_pixels``: see annotated_size_hw.
    """
    faults = Faults()
    items: list[Item] = []
    for image, mask in joined_by_name(images, masks, IMAGE_SUFFIXES, faults):
        with faults.noting(str(mask)):
            size = annotated_size_hw(image, stored_pixels)
            inside = read_foreground(mask)
            if inside.shape != size:
                found = f"{inside.shape[1]} x {inside.shape[0]} pixels (width x height)"
                reason = missed_turn(image, size, inside.shape, stored_pixels)
                raise DataError(f"has {found}, but {image.name} has {size[1]} x {size[0]}{reason}")
            if not inside.any():
                faults.leave(
                    str(mask), "no pixel is brighter than half: no object (stored as 1? say --labels 1=object)"
                )
                continue
            label = png_bytes(np.where(inside, WHITE, 0).astype(np.uint8))
            items.append(Item(image=image, name=image.name, size_hw=size, records=({},), label_png=label))
    return Import(layout="salient_png", task="salient", items=items, faults=faults)
