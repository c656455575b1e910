"""PNG and JPEG files without what is written about their pixels: a malformed note must not cost a sound image.

Pillow refuses a whole file for a broken profile, text or index of further images. Such a file is read a second time
without them. Nothing that says what the pixels look like is left out.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_EXIF = b"eXIf"
_JPEG_START = b"\xff\xd8"
_JPEG_SCAN = 0xDA
_JPEG_EXIF = 0xE1
_JPEG_ADOBE = 0xEE
_JPEG_NOTES = (*range(0xE0, 0xF0), 0xFE)
"""APP0 to APP15 and the comment."""
_ADOBE_BYTES = 12
"""Name, version, flags and the color transform; a shorter one tells nothing."""


def without_notes(data: bytes) -> bytes | None:
    """Return a PNG or JPEG file without its notes but an EXIF block that can be found; None for anything else."""
    try:
        if data.startswith(_PNG_START):
            return _PNG_START + b"".join(_png_chunks(data))
        if data.startswith(_JPEG_START):
            return _JPEG_START + b"".join(_jpeg_segments(data))
    except (struct.error, IndexError):
        pass  # cut off before its pixels: what Pillow said about the whole file stands
    return None


def _png_chunks(data: bytes) -> Iterator[bytes]:
    place = len(_PNG_START)
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, whole = data[place + 4 : place + 8], data[place : place + 12 + length]
        sound_exif = kind == _PNG_EXIF and struct.pack(">I", zlib.crc32(whole[4:-4])) == whole[-4:]
        if kind in _PNG_KEPT or sound_exif:
            yield whole
        if kind == b"IEND":
            return
        place += 12 + length


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    place = len(_JPEG_START)
    while data[place] == 0xFF:
        kind = data[place + 1]
        if kind == 0xFF:  # a byte to fill up with
            place += 1
            continue
        if kind == _JPEG_SCAN:
            break
        (length,) = struct.unpack_from(">H", data, place + 2)
        length = max(length, 2)
        whole = data[place : place + 2 + length]
        exif = kind == _JPEG_EXIF and whole[4:10] == b"Exif\0\0"
        adobe = kind == _JPEG_ADOBE and length - 2 >= _ADOBE_BYTES
        if kind not in _JPEG_NOTES or exif or adobe:
            yield whole
        place += 2 + length
    yield data[place:]
