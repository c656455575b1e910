"""Pictures from disk, decoded safely: few formats, a cap on pixels, errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ullava.errors import DataError
from ullava.structures import ImageArray, MaskArray

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
MAX_PIXELS = 50_000_000
FOREGROUND_ABOVE = 127
WHITE_ALONE = 254
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
_EXIF_ORIENTATION = 0x0112


def read_image_rgb_u8(path: Path, *, opaque: bool = False) -> ImageArray:
    """Read a picture as uint8 [H, W, 3], turned upright by its EXIF orientation; transparency is laid on white.

    ``opaque`` shows what lies under transparency instead, as u-LLaVA does.
    Raises DataError naming the file if it is missing, empty, cut off, of another format (by content, not by name),
    larger than ``MAX_PIXELS``, or of more than 8 bits per channel. Of an animation the first frame is read.
    """
    picture = _decode(path)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        raise DataError(f"{path}: {picture.mode} pictures (more than 8 bits per channel) are not supported")
    if picture.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    return np.array(picture.convert("RGB")) if opaque else on_white(picture)


def on_white(picture: Image.Image) -> ImageArray:
    """Return the pixels of a picture as uint8 [H, W, 3], transparency laid on white."""
    if picture.mode in _TRANSPARENT or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        picture = Image.new("RGB", layer.size, (255, 255, 255))
        picture.paste(layer, mask=layer.getchannel("A"))
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def read_label_png(path: Path) -> NDArray[np.int32]:
    """Read a label picture as int32 [H, W]: palette numbers or grey values as they are stored, 8 or 16 bits.

    Raises DataError naming the file if it is not one channel: colours are not class numbers.
    """
    picture = _decode(path)
    if picture.format != "PNG":
        raise DataError(f"{path}: label pictures have to be PNG, not {picture.format}: others change the numbers")
    if picture.mode not in ("1", "P", "L", "I") and not picture.mode.startswith("I;16"):
        raise DataError(f"{path}: a label picture has one channel of class numbers, this one is {picture.mode}")
    return np.asarray(picture).astype(np.int32)


def read_foreground(path: Path, above: int = FOREGROUND_ABOVE) -> MaskArray:
    """Read a foreground picture as bool [H, W]: true above half of the range, so soft or JPEG-pressed edges do no harm.

    ``above``: another bound (u-LLaVA's is 254: white alone).

    Grey, black-and-white and palette pictures, and RGB ones with equal channels. Raises DataError for anything else.
    """
    picture = _decode(path)
    if picture.mode == "P":
        picture = picture.convert("RGB")
    if picture.mode in ("1", "L"):
        return np.asarray(picture.convert("L")) > above
    if picture.mode != "RGB":
        raise DataError(f"{path}: a foreground picture is grey or black-and-white, this one is {picture.mode}")
    channels = np.asarray(picture)
    if not (np.array_equal(channels[..., 0], channels[..., 1]) and np.array_equal(channels[..., 0], channels[..., 2])):
        raise DataError(f"{path}: a foreground picture is grey, this one has colours")
    return channels[..., 0] > above


def _decode(path: Path) -> Image.Image:
    """Open and decode one file; every way to fail becomes a DataError with the file's name."""
    try:
        with path.open("rb") as file:
            picture = Image.open(file, formats=FORMATS)
            if picture.width * picture.height > MAX_PIXELS:
                size = f"{picture.width} x {picture.height}"
                raise DataError(f"{path}: {size} pixels are more than the cap of {MAX_PIXELS // 1_000_000} million")
            picture.load()
            return picture
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such picture") from error
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        reason = "the file is empty" if empty else f"not a picture of a known format ({', '.join(FORMATS)})"
        raise DataError(f"{path}: {reason}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: more pixels than the cap of {MAX_PIXELS // 1_000_000} million") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be decoded ({error})") from error
