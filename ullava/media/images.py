"""Images, decoded safely: few formats, caps on size, errors that name the file; one way in for all that is an image.

A path, an open Pillow image and an array of the same image give the same pixels.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ullava.errors import DataError
from ullava.given_files import open_plain
from ullava.media.bare_images import without_notes
from ullava.orientation import SIDEWAYS, UPRIGHT, orientation_of, upright
from ullava.structures import ImageArray, MaskArray

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
MAX_PIXELS = 50_000_000
MAX_SIDE = 1_000_000
"""The longest side in pixels; PNG libraries stop there as well."""
MAX_BYTES = 512 * 1024 * 1024
"""Of a file; more than ``MAX_PIXELS`` take in any of the formats, so the rest is no image."""
MAX_SCANS = 200
"""Of a progressive JPEG; encoders write ten or so."""
FOREGROUND_ABOVE = 127
WHITE_ALONE = 254
_HEAD_BYTES = 12
_WHOLE_HW = "ullava_whole_hw"
"""Where an image that was decoded smaller notes the size of its file."""
_JPEG_SCAN = b"\xff\xda"
_STARTS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF"}
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
_ARRAY_RULE = "an array is uint8 [H, W, 3] (RGB), [H, W, 4] (RGBA) or [H, W] (gray), or bool [H, W]"

ImageLike = str | os.PathLike[str] | Image.Image | NDArray[Any]
"""What is taken for an image: a path, a Pillow image, or whatever NumPy can take for an array."""

# Pillow prints lines of its own about damaged notes and nearly too many pixels. We read the image, or refuse it in one.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image_rgb_u8(image: ImageLike) -> ImageArray:
    """Return an image as uint8 [H, W, 3], turned upright by its EXIF orientation; transparency is laid on white.

    ``image``: a path, a Pillow image (of an animation the frame it stands at), or an array: uint8 [H, W, 3] (RGB),
    [H, W, 4] (RGBA) or [H, W] (gray), or bool [H, W]; a tensor, or what else NumPy takes for one, counts too.
    Of an animated file the first frame is read.

    Raises DataError naming the file if it is missing, no plain file, empty, cut off, of another format (by content, not
    by name), above ``MAX_PIXELS``, ``MAX_SIDE`` or ``MAX_BYTES``, or of more than 8 bits per channel; and for an array
    of any other form: whether 0.5 is dark or gray is for the caller to say.
    """
    if isinstance(image, (str, os.PathLike)):
        return _pixels(_decode(image if isinstance(image, Path) else Path(image)), image)
    if isinstance(image, Image.Image):
        name = str(getattr(image, "filename", "")) or "the Pillow image"
        _check_size(name, image.width, image.height)
        return _pixels(image, name)
    return _array_rgb_u8(image)


def read_preview_rgb_u8(image: ImageLike, side: int) -> tuple[ImageArray, tuple[int, int]]:
    """Return an image as ``read_image_rgb_u8`` does, smaller where that is cheap, and the (height, width) of the whole.

    A JPEG file is decoded at a half, a quarter or an eighth of its size (libjpeg scales while it decodes), as long as
    its long side stays at ``side`` or more; everything else comes whole. For what people look at: the pixels are not
    those of a resized image. Raises DataError as ``read_image_rgb_u8``: the whole file is read.
    """
    if not isinstance(image, (str, os.PathLike)):
        pixels = read_image_rgb_u8(image)
        return pixels, (pixels.shape[0], pixels.shape[1])
    decoded = _decode(Path(image), side)
    return _pixels(decoded, image), upright_hw(_stored_hw(decoded), orientation_of(decoded))


def decode_image_rgb_u8(data: bytes, name: str, max_pixels: int | None = None) -> ImageArray:
    """Return the image of an encoded file in memory as ``read_image_rgb_u8`` does; ``name`` is how messages call it.

    ``max_pixels``: a cap below ``MAX_PIXELS``, judged before anything is decoded. Raises DataError as there.
    """
    if not data:
        raise DataError(f"{name}: the file is empty")
    try:
        image = _load(name, io.BytesIO(data), max_pixels)
    except DataError:
        bare = without_notes(data)
        if bare is None:
            raise
        image = _load(name, io.BytesIO(bare), max_pixels)
    return _pixels(image, name)


def stored_frame(path: Path) -> tuple[tuple[int, int], int]:
    """Decode a file; return the (height, width) of its pixels as they are stored, and its EXIF orientation (1 to 8).

    Raises DataError as ``read_image_rgb_u8``.
    """
    image = _decode(path)
    _check_depth(path, image)
    return _frame(image)


def stored_frame_of_head(path: Path) -> tuple[tuple[int, int], int]:
    """Return the same of a file, label images of 16 bits too, from its head where that tells it."""
    with open_plain(path, what="image") as file:
        try:
            with _Decoding(path), Image.open(file, formats=FORMATS) as image:
                _check_size(path, image.width, image.height)
                return _frame(image)
        except DataError:
            return _frame(_decode(path))


def _stored_hw(image: Image.Image) -> tuple[int, int]:
    """Return the (height, width) of the file's pixels, which a decoder may have made fewer."""
    height, width = image.info.get(_WHOLE_HW, (image.height, image.width))
    return int(height), int(width)


def _frame(image: Image.Image) -> tuple[tuple[int, int], int]:
    return (image.height, image.width), orientation_of(image)


def upright_hw(stored_hw: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return the (height, width) that an image has when it is turned upright."""
    return stored_hw[::-1] if orientation in SIDEWAYS else stored_hw


def decode_upright(path: Path) -> Image.Image:
    """Return the decoded image of a file, turned upright, with its transparency; raises as ``read_image_rgb_u8``."""
    return _upright(_decode(path), path)


def _upright(image: Image.Image, name: object) -> Image.Image:
    _check_depth(name, image)
    with _Decoding(name):
        image.load()
        _check_palette(name, image)
        return upright(image)


def _pixels(image: Image.Image, name: object) -> ImageArray:
    """Return what ``read_image_rgb_u8`` promises of a Pillow image."""
    turned = _upright(image, name)
    with _Decoding(name):
        return on_white(turned)


def _array_rgb_u8(given: Any) -> ImageArray:
    """Return what ``read_image_rgb_u8`` promises of an array."""
    if not hasattr(given, "__array__"):
        raise DataError(f"an image is a path, a Pillow image or an array, not {type(given).__name__}")
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor on a GPU or with a gradient
        raise DataError(f"an image of type {type(given).__name__} is no array ({first_line(error)})") from error
    shown = f"{array.dtype} {list(array.shape)}"
    flat = array.ndim == 2
    if not (flat and array.dtype == np.bool_) and not (
        array.dtype == np.uint8 and (flat or (array.ndim == 3 and array.shape[2] in (3, 4)))
    ):
        raise DataError(f"{_ARRAY_RULE}, not {shown}")
    if array.size == 0:
        raise DataError(f"the array {shown} holds no pixel")
    _check_size(f"the array {shown}", array.shape[1], array.shape[0])
    if array.shape[2:] == (3,):
        return np.ascontiguousarray(array)
    return _pixels(Image.fromarray(np.ascontiguousarray(array)), f"the array {shown}")


def on_white(image: Image.Image) -> ImageArray:
    """Return the pixels of an image as uint8 [H, W, 3], transparency laid on white."""
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGB", layer.size, (255, 255, 255))
        image.paste(layer, mask=layer.getchannel("A"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_label_png(path: Path) -> NDArray[np.int32]:
    """Read a label image as int32 [H, W]: palette numbers or gray values as they are stored, 8 or 16 bits.

    Raises DataError naming the file if it is not one channel: colors are not class numbers.
    """
    image = _decode_mask(path)
    if image.format != "PNG":
        raise DataError(f"{path}: label images have to be PNG, not {image.format}: others change the numbers")
    if image.mode not in ("1", "P", "L", "I") and not image.mode.startswith("I;16"):
        raise DataError(f"{path}: a label image has one channel of class numbers, this one is {image.mode}")
    return np.asarray(image).astype(np.int32)


def read_foreground(path: Path, above: int = FOREGROUND_ABOVE) -> MaskArray:
    """Read a foreground image as bool [H, W]: true above half of the range, so soft or JPEG-pressed edges do no harm.

    ``above``: another bound (u-LLaVA's is 254: white alone).

    Gray, black-and-white and palette images, and RGB ones with equal channels. Raises DataError for anything else.
    """
    image = _decode_mask(path)
    if image.mode == "P":
        with _Decoding(path):
            image = image.convert("RGB")
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L")) > above
    if image.mode != "RGB":
        raise DataError(f"{path}: a foreground image is gray or black-and-white, this one is {image.mode}")
    channels = np.asarray(image)
    if not (np.array_equal(channels[..., 0], channels[..., 1]) and np.array_equal(channels[..., 0], channels[..., 2])):
        raise DataError(f"{path}: a foreground image is gray, this one has colors")
    return channels[..., 0] > above


def _decode_mask(path: Path) -> Image.Image:
    """Decode a mask. One that says itself how it is to be turned is refused: programs differ in whether they obey."""
    image = _decode(path)
    orientation = orientation_of(image)
    if orientation != UPRIGHT:
        raise DataError(
            f"{path}: the mask has an EXIF orientation of its own ({orientation}), which not every program obeys: "
            "save it without one, as it is to lie on the image"
        )
    return image


def _decode(path: Path, side: int | None = None) -> Image.Image:
    """Open and decode one file; every way to fail becomes a DataError with the file's name.

    ``side``: a JPEG may come smaller, its long side this one at the least.
    """
    with open_plain(path, what="image") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size == 0:
            raise DataError(f"{path}: the file is empty")
        if size > MAX_BYTES:
            raise DataError(f"{path}: {size} bytes are more than the cap of {MAX_BYTES // 1024**2} MiB")
        try:
            return _load(path, file, side=side)
        except DataError:
            file.seek(0)
            bare = without_notes(file.read())
            if bare is None:
                raise
            return _load(path, io.BytesIO(bare), side=side)


def _load(
    path: object, file: BinaryIO | io.BytesIO, max_pixels: int | None = None, side: int | None = None
) -> Image.Image:
    with _Decoding(path, max_pixels):
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError as error:
            file.seek(0)
            raise DataError(f"{path}: {_unreadable(file.read(_HEAD_BYTES))}") from error
        _check_size(path, image.width, image.height, max_pixels)
        if "progressive" in image.info:
            _check_scans(path, file)
        if side is not None and image.format == "JPEG":
            image.info[_WHOLE_HW] = image.height, image.width
            share = side / max(image.size)
            image.draft(image.mode, (math.ceil(image.width * share), math.ceil(image.height * share)))
        image.load()
        _check_palette(path, image)
        return image


class _Decoding:
    """Turns whatever a decoder makes of the image ``name`` into a DataError of one line."""

    __slots__ = ("max_pixels", "name")

    def __init__(self, name: object, max_pixels: int | None = None) -> None:
        self.name = name
        self.max_pixels = max_pixels or MAX_PIXELS

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, DataError):
            return
        if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
            raise DataError(f"{self.name}: more pixels than the cap of {_millions(self.max_pixels)}") from error
        if isinstance(error, Exception):  # foreign bytes in foreign code: there is no list of what may be raised
            raise DataError(f"{self.name}: cannot be decoded ({first_line(error)})") from error


def _unreadable(head: bytes) -> str:
    """Say why Pillow knows nothing of a file that begins so."""
    kind = "WEBP" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else ""
    kind = next((name for start, name in _STARTS.items() if head.startswith(start)), kind)
    if kind:
        return f"cannot be decoded (begins as {kind}, but is cut off or damaged)"
    return f"not an image of a known format ({', '.join(FORMATS)})"


def _check_size(name: object, width: int, height: int, max_pixels: int | None = None) -> None:
    if width < 1 or height < 1:
        raise DataError(f"{name}: an image of {width} x {height} pixels has none")
    max_pixels = max_pixels or MAX_PIXELS
    if width * height > max_pixels:
        raise DataError(f"{name}: {width} x {height} pixels are more than the cap of {_millions(max_pixels)}")
    if max(width, height) > MAX_SIDE:
        raise DataError(f"{name}: {width} x {height} pixels: a side is longer than the cap of {MAX_SIDE} pixels")


def _millions(pixels: int) -> str:
    return f"{pixels // 1_000_000} million" if pixels >= 1_000_000 else str(pixels)


def _check_scans(path: object, file: BinaryIO | io.BytesIO) -> None:
    """Refuse a progressive JPEG of so many scans that it is a bomb: each goes over the whole image, in a few bytes."""
    place = file.tell()
    file.seek(0)
    scans = file.read().count(_JPEG_SCAN)
    file.seek(place)
    if scans > MAX_SCANS:
        raise DataError(f"{path}: {scans} scans in a progressive JPEG are more than the cap of {MAX_SCANS}")


def _check_depth(name: object, image: Image.Image) -> None:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise DataError(f"{name}: {image.mode} images (more than 8 bits per channel) are not supported")


def _check_palette(name: object, image: Image.Image) -> None:
    if image.mode == "P" and image.palette is None:  # Pillow shows such a file as black
        raise DataError(f"{name}: cannot be decoded (it has numbers of colors and no palette)")


def first_line(error: BaseException) -> str:
    """Return the first line of what a library says, or the kind of its error if it says nothing."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return next(iter(said.splitlines()), "") or type(error).__name__
