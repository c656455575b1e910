"""One image as the network and its heads want it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ullava.examples import ImageExample, MaskEntry
from ullava.modeling.vision.strategy import ItemNotes
from ullava.structures import ImageArray


def make_image_example(
    processor: Any, key: str, image_rgb_u8: ImageArray, notes: ItemNotes, *, with_heads: bool, file: Path | None
) -> ImageExample:
    """Preprocess uint8 [H, W, 3] for ``processor``, a UllavaProcessor; ``with_heads``: the views of the heads, too.

    ``file``: what the whole image was decoded from, None where it is not that (any more).
    """
    inputs = processor.vision.preprocess(image_rgb_u8, notes)
    height, width = image_rgb_u8.shape[:2]
    geometry = dict(inputs.geometry)
    box = sam = entry = None
    if with_heads:
        own_view = processor.boxes.view(image_rgb_u8)
        if own_view is not None:
            box, geometry["box"] = own_view
        sam, entry = _mask_view(processor, image_rgb_u8, file)
    return ImageExample(
        key=key + inputs.variant,
        original_hw=(height, width),
        views=inputs.views,
        geometry=geometry,
        count=inputs.count,
        sam_u8=sam,
        grid_hw=inputs.grid_hw,
        box_u8=box,
        shrunk=inputs.shrunk,
        for_heads=with_heads,
        mask_entry=entry,
        text=inputs.text,
    )


def _mask_view(
    processor: Any, image_rgb_u8: ImageArray, file: Path | None
) -> tuple[NDArray[np.uint8] | None, MaskEntry | None]:
    """What the mask encoder is to see, None where that is kept; and where it is kept, None = nowhere."""
    if processor.mask_cache is None or file is None:
        return processor.masks.view(image_rgb_u8), None
    entry: MaskEntry = processor.mask_cache.look_up(file, processor.masks.content_hw(image_rgb_u8.shape[:2]))
    return None if entry.maps is not None else processor.masks.view(image_rgb_u8), entry
