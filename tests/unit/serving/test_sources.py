"""Images and videos out of requests."""

from __future__ import annotations

import base64
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ullava.errors import DataError
from ullava.media.images import decode_image_rgb_u8, read_image_rgb_u8
from ullava.serving.limits import Limits
from ullava.serving.refusals import RefusedError
from ullava.serving.sources import Source, check_pixels, read_image, read_video


def encoded(kind: str = "PNG", size: tuple[int, int] = (8, 6), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(size[1], size[0], 3)).save(
        file, kind, **options
    )
    return file.getvalue()


def bomb() -> bytes:
    """A PNG that says 25,000 x 25,000 black pixels, in a hundred bytes."""
    import struct

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 25_000, 25_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_an_image_in_memory_gives_the_pixels_of_its_file(kind: str, tmp_path: Path) -> None:
    data = encoded(kind)
    (tmp_path / "file").write_bytes(data)
    assert np.array_equal(decode_image_rgb_u8(data, "it"), read_image_rgb_u8(tmp_path / "file"))


def test_it_is_turned_upright_and_survives_broken_notes() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image_rgb_u8(encoded("JPEG", exif=exif), "it").shape == (8, 6, 3)
    data = encoded()
    broken = data[:33] + b"\0\0\0\4zTXtabcd\0\0\0\0" + data[33:]
    assert decode_image_rgb_u8(broken, "it").shape == (6, 8, 3)


@pytest.mark.parametrize(("data", "said"), [(b"", "it: the file is empty"), (b"nothing", "it: not an image")])
def test_what_is_no_image_is_called_by_its_name(data: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        decode_image_rgb_u8(data, "it")


@pytest.mark.parametrize(
    "given",
    [
        lambda data: data,
        lambda data: base64.b64encode(data).decode(),
        lambda data: base64.encodebytes(data).decode(),
        lambda data: "data:image/png;base64," + base64.b64encode(data).decode(),
        lambda data: "data:;base64," + base64.b64encode(data).decode(),
        lambda data: "DATA:image/png;name=\"a\";BASE64," + base64.b64encode(data).decode(),
        lambda data: "data:application/octet-stream," + "".join(f"%{byte:02x}" for byte in data),
    ],
)  # fmt: skip
def test_every_form_of_an_image_is_read(given: Any) -> None:
    data = encoded()
    source = Source(given(data), "image", bare=True)
    assert source.url is None and source.data() == data
    digest, pixels = read_image(source.data(), "image", Limits())
    assert pixels.shape == (6, 8, 3) and len(digest) == 64


@pytest.mark.parametrize("given", ["data:image/png;base64,@@@", "data:image/png;base64", "abc!", "YWJ"])
def test_damaged_text_is_refused(given: str) -> None:
    with pytest.raises(RefusedError, match="is not valid") as caught:
        Source(given, "image.base64", bare=True).data()
    assert caught.value.param == "image.base64"


def test_text_with_a_scheme_is_a_url_and_is_never_opened_as_a_file() -> None:
    assert Source("file:///etc/passwd", "image", bare=True).url == "file:///etc/passwd"
    assert Source("/etc/passwd", "image").url == "/etc/passwd"
    with pytest.raises(RefusedError):
        Source("/etc/passwd.", "image", bare=True).data()


def test_a_bomb_is_refused_by_its_head() -> None:
    with pytest.raises(RefusedError, match="more pixels than the cap of 25 million") as caught:
        read_image(bomb(), "image.url", Limits())
    assert (caught.value.status, caught.value.code, caught.value.param) == (413, "too_large", "image.url")


def test_pixels_are_bounded_for_an_image_and_for_all() -> None:
    limits = Limits(max_megapixels=1)
    fits = np.zeros((1000, 1000, 3), np.uint8)
    check_pixels([("a", fits)] * 4, limits)
    with pytest.raises(RefusedError, match="more than 4 million pixels together"):
        check_pixels([("a", fits)] * 5, limits)
    with pytest.raises(RefusedError, match="cap of 1 million"):
        read_image(encoded(size=(1001, 1000)), "image", limits)


def test_a_video_is_read_from_a_file_that_is_gone_afterwards() -> None:
    seen: list[Path] = []

    def read(path: Path) -> Any:
        seen.append(path)
        assert path.read_bytes() == b"clip" and path.stat().st_mode & 0o077 == 0
        return np.zeros((2, 4, 4, 3), np.uint8)

    assert read_video(b"clip", "video", read)[1].shape == (2, 4, 4, 3)
    assert not seen[0].parent.exists()


@pytest.mark.parametrize(
    ("problem", "status"), [("{}: cannot be decoded", 400), ("{}: 9 frames are more than the limit of 3", 413)]
)
def test_what_is_wrong_with_a_video_does_not_tell_where_it_lay(problem: str, status: int) -> None:
    def read(path: Path) -> Any:
        raise DataError(problem.format(path))

    with pytest.raises(RefusedError, match="^the video: ") as caught:
        read_video(b"clip", "video", read)
    assert caught.value.status == status and "ullava-" not in caught.value.message
