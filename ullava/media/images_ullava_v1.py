"""Images as u-LLaVA's first release reads them: what lies under transparency is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ullava.media.images import decode_upright
from ullava.structures import ImageArray


def read_opaque_rgb_u8(path: Path) -> ImageArray:
    """Return an image as uint8 [H, W, 3] without its transparency; raises DataError as ``read_image_rgb_u8``."""
    return np.array(decode_upright(path).convert("RGB"))
