"""Images and videos as a request brings them, and as the model reads them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from ullava.errors import DataError
from ullava.geometry.region_prompts import as_regions
from ullava.media.images import decode_image_rgb_u8
from ullava.serving.limits import Limits
from ullava.serving.refusals import RefusedError, invalid, too_large
from ullava.structures import ImageArray, RegionPrompt

ALL_IMAGES = 4
"""How many times the pixels of the largest image all images of a request may have together."""
_DATA_URI = re.compile(r"data:(?P<kind>[\w.+-]+/[\w.+-]+)?(?P<rest>(?:;[\w.+=\"-]+)*),", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Source:
    """One image or video of a request. ``given``: the bytes of a file, a url, a data URI, or base64.

    ``param``: the field of the request, for messages. ``bare``: text without a scheme is base64, not a mistake.
    """

    given: bytes | str
    param: str
    bare: bool = False

    @property
    def url(self) -> str | None:
        """The url to fetch, if there is one."""
        if isinstance(self.given, bytes) or self.given[:5].lower() == "data:":
            return None
        return None if self.bare and "://" not in self.given[:20] else self.given

    def data(self) -> bytes:
        """Return the bytes of a source that is no url. Raises RefusedError for what is no base64."""
        if isinstance(self.given, bytes):
            return self.given
        if (found := _DATA_URI.match(self.given[:300])) is not None:
            content = self.given[found.end() :]
            if not found["rest"].lower().endswith(";base64"):
                return unquote_to_bytes(content)
        elif self.given[:5].lower() == "data:":
            raise invalid("the data URI is not valid", self.param)
        else:
            content = self.given
        try:
            return base64.b64decode("".join(content.split()), validate=True)
        except (binascii.Error, ValueError):
            raise invalid("the base64 is not valid", self.param) from None


def read_image(data: bytes, param: str, limits: Limits) -> tuple[str, ImageArray]:
    """Return the digest of an image file and its pixels, uint8 [H, W, 3]. Raises RefusedError."""
    try:
        return digest(data), decode_image_rgb_u8(data, "the image", limits.max_megapixels * 1_000_000)
    except DataError as error:
        if "than the cap" in str(error):
            raise too_large(str(error), param) from None
        raise RefusedError(400, "invalid_image", str(error), param) from None


def read_video(data: bytes, param: str, read: Callable[[Path], ImageArray]) -> tuple[str, ImageArray]:
    """Return the digest of a video file and the frames that ``read`` takes from a path, uint8 [T, H, W, 3].

    The file lies in a folder that only this user can look into, for as long as it is read. Raises RefusedError.
    """
    with tempfile.TemporaryDirectory(prefix="ullava-") as folder:
        path = Path(folder, "video")
        path.write_bytes(data)
        os.chmod(path, 0o600)
        try:
            return digest(data), read(path)
        except DataError as error:
            message = str(error).replace(str(path), "the video")
            if "more than the" in message:
                raise too_large(message, param) from None
            raise RefusedError(400, "invalid_video", message, param) from None


def read_regions(values: Sequence[Any], param: str, limits: Limits) -> tuple[RegionPrompt, ...]:
    """Return the regions that a request points at. Raises RefusedError for what is none, and for masks too large.

    All masks together may have as many pixels as all images.
    """
    codes = [value.get("mask", value) for value in values if isinstance(value, Mapping)]
    sizes = [code.get("size") for code in codes if isinstance(code, Mapping)]
    pixels = [math.prod(size) for size in sizes if isinstance(size, list) and all(type(side) is int for side in size)]
    most = ALL_IMAGES * limits.max_megapixels
    if sum(pixels) > most * 1_000_000:
        raise too_large(f"the masks of the regions have more than {most} million pixels together", param)
    try:
        return as_regions(values)
    except DataError as error:
        raise invalid(str(error), param) from None


def digest(data: bytes) -> str:
    """Return what tells files apart: the same bytes are encoded once in a batch."""
    return hashlib.sha256(data).hexdigest()


def check_pixels(images: list[tuple[str, ImageArray]], limits: Limits) -> None:
    """Raise RefusedError when all images of a request are too much together."""
    most = ALL_IMAGES * limits.max_megapixels
    if sum(pixels.shape[0] * pixels.shape[1] for _, pixels in images) > most * 1_000_000:
        raise too_large(f"the images have more than {most} million pixels together")
