"""Sound images with malformed notes are read, everything else is refused in one line; every form gives one image."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ullava.errors import DataError
from ullava.media import images
from ullava.media.images import read_foreground, read_image_rgb_u8, stored_frame

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
ANIMATION = struct.pack(">II", 2, 0)


def stored(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, kind, **options)
    return file.getvalue()


PNG, JPEG, WEBP = (
    stored("PNG"),
    stored("JPEG", quality=95),
    stored("WEBP", lossless=True, exif=b"Exif\0\0MM\0*" + bytes(8)),
)


def png(*chunks: tuple[bytes, bytes], last: bool = False, sound: bool = True) -> bytes:
    """The PNG with chunks behind its header, or before its end."""
    place = len(PNG) - 12 if last else 33
    added = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if sound else 7)
        for kind, body in chunks
    )
    return PNG[:place] + added + PNG[place:]


def jpeg(number: int, body: bytes) -> bytes:
    """The JPEG with an APP segment of this number."""
    return JPEG[:2] + bytes([0xFF, 0xE0 + number]) + struct.pack(">H", len(body) + 2) + body + JPEG[2:]


def exif(entry: bytes) -> bytes:
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + bytes(4)


FURTHER = struct.pack(">HHIIHHI", 0xB001, 4, 1, 2, 0xB002, 7, 4)
LARGE = zlib.compress(bytes(5_000_000))
MALFORMED = {
    "png exif": png((b"eXIf", b"NOPE1234")),
    "png exif at the end": png((b"eXIf", b"NOPE1234"), last=True),
    "png exif sum": png((b"eXIf", exif(struct.pack(">HHIHH", 0x112, 3, 1, 6, 0))[6:]), sound=False),
    "png exif as text": png((b"tEXt", b"Raw profile type exif\0\nexif\n 8\nzzzz")),
    "png profile": png((b"iCCP", b"none")),
    "png profile bomb": png((b"iCCP", b"x\0\0" + LARGE)),
    "png text bomb": png((b"zTXt", b"k\0\0" + LARGE)),
    "png text method": png((b"zTXt", b"k\0\7" + LARGE)),
    "png text sum": png((b"tEXt", b"k\0v"), sound=False),
    "png many texts": png(*[(b"tEXt", b"k%d\0" % n + bytes(900_000)) for n in range(80)]),
    "png density": png((b"pHYs", b"a")),
    "png gamma": png((b"gAMA", b"a")),
    "png animation": png((b"acTL", b"a")),
    "png frame": png((b"acTL", ANIMATION), (b"fcTL", struct.pack(">IIIIIHHBB", 0, 999, 999, 0, 0, 0, 0, 0, 0))),
    "jpeg exif": jpeg(1, b"Exif\0\0NOPE1234"),
    "jpeg exif cut off": jpeg(1, exif(b"")[:17]),
    "jpeg orientation in words": jpeg(1, exif(struct.pack(">HHIHH", 0x112, 2, 1, 6, 0))),
    "jpeg orientation 99": jpeg(1, exif(struct.pack(">HHIHH", 0x112, 3, 1, 99, 0))),
    "jpeg profile": jpeg(2, b"ICC_PROFILE\0"),
    "jpeg further images": jpeg(2, b"MPF\0MM\0*\0\0\0\x08\0\x02" + FURTHER * 2),
    "jpeg adobe": jpeg(14, b"Adobe"),
    "webp exif": WEBP.replace(b"MM\0*", b"ZZZZ"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_malformed_notes_do_not_cost_a_sound_image(tmp_path: Path, name: str) -> None:
    (tmp_path / "sound").write_bytes(JPEG if name.startswith("jpeg") else PNG)
    (tmp_path / "a").write_bytes(MALFORMED[name])
    np.testing.assert_array_equal(read_image_rgb_u8(tmp_path / "a"), read_image_rgb_u8(tmp_path / "sound"))


def test_an_orientation_survives_other_malformed_notes(tmp_path: Path) -> None:
    turned = jpeg(1, exif(struct.pack(">HHIHH", 0x112, 3, 1, 6, 0)))
    (tmp_path / "a.jpg").write_bytes(turned[:2] + jpeg(2, b"ICC_PROFILE\0")[2:18] + turned[2:])
    assert read_image_rgb_u8(tmp_path / "a.jpg").shape == (32, 24, 3)


def refusal(image: object) -> str:
    with pytest.raises(DataError) as caught:
        read_image_rgb_u8(image)
    (line,) = caught.value.problems
    assert "\n" not in line and "Traceback" not in line
    return line


def test_what_is_wrong_with_the_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(png((b"tRNS", b"a")))
    assert refusal(path) == f"{path}: cannot be decoded (begins as PNG, but is cut off or damaged)"
    Image.fromarray(RGB).quantize(4).save(path, "PNG")
    raw = path.read_bytes()
    start = raw.index(b"PLTE") - 4
    path.write_bytes(raw[:start] + raw[start + 12 + 3 * 4 :])
    assert refusal(path) == f"{path}: cannot be decoded (it has numbers of colors and no palette)"
    assert "no palette" in refusal(Image.open(path))
    with pytest.raises(DataError, match="no palette"):
        read_foreground(path)
    path.write_bytes(PNG[:16] + struct.pack(">II", 2_000_000, 1) + PNG[24:])
    assert "damaged" in refusal(path)
    strip = PNG[:12] + b"IHDR" + struct.pack(">II", 2_000_000, 1) + PNG[24:29]
    path.write_bytes(strip + struct.pack(">I", zlib.crc32(strip[12:29])) + PNG[33:])
    assert refusal(path) == f"{path}: 2000000 x 1 pixels: a side is longer than the cap of 1000000 pixels"
    data = stored("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    path.write_bytes(data[:last] + data[last:-2] * 500 + data[-2:])
    assert re.search(r"5\d\d scans in a progressive JPEG are more than the cap of 200", refusal(path))
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    path.write_bytes(PNG)
    assert f"{len(PNG)} bytes are more than the cap of 0 MiB" in refusal(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert refusal(tmp_path / "a.png") == f"{tmp_path / 'a.png'}: is a named pipe, not a file"


def test_a_file_and_its_pillow_image_are_one_image(tmp_path: Path) -> None:
    note = Image.Exif()
    note[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "turned.jpg", exif=note, quality=95)
    Image.fromarray(np.dstack([RGB, RGB[..., :1]])).save(tmp_path / "glass.png")
    Image.fromarray(RGB).quantize(8).save(tmp_path / "palette.png", transparency=3)
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "print.jpg")
    Image.fromarray(RGB[..., 0] > 99).save(tmp_path / "bits.png")
    Image.fromarray(RGB[..., :2], "LA").save(tmp_path / "gray_glass.png")
    Image.fromarray(RGB).save(tmp_path / "film.gif", save_all=True, append_images=[Image.fromarray(RGB[::-1])])
    for path in sorted(tmp_path.iterdir()):
        by_path = read_image_rgb_u8(path)
        np.testing.assert_array_equal(read_image_rgb_u8(str(path)), by_path, err_msg=path.name)
        np.testing.assert_array_equal(read_image_rgb_u8(Image.open(path)), by_path, err_msg=path.name)
    assert read_image_rgb_u8(tmp_path / "turned.jpg").shape == (32, 24, 3)
    deep = Image.fromarray(np.full((4, 4), 300, np.uint16))
    deep.save(tmp_path / "deep.png")
    assert "more than 8 bits per channel" in refusal(tmp_path / "deep.png")
    with pytest.raises(DataError, match="more than 8 bits per channel"):
        stored_frame(tmp_path / "deep.png")
    assert "the Pillow image: I;16 " in refusal(deep)
    assert "F images (more than 8 bits" in refusal(Image.new("F", (3, 3)))
    (tmp_path / "cut.jpg").write_bytes(JPEG[:-200])
    assert "cut.jpg: cannot be decoded" in refusal(Image.open(tmp_path / "cut.jpg"))


def test_arrays_are_images_by_a_rule() -> None:
    gray = RGB[..., 0]
    glass = np.dstack([RGB, np.zeros_like(gray)])
    for given, wanted in (
        (RGB, RGB),
        (RGB[::-1, ::-1], RGB[::-1, ::-1]),
        (RGB[:, :, ::-1], RGB[:, :, ::-1]),
        (np.asfortranarray(RGB), RGB),
        (RGB[::2, ::3], RGB[::2, ::3]),
        (gray, np.dstack([gray] * 3)),
        (gray > 99, np.dstack([np.where(gray > 99, 255, 0)] * 3)),
        (glass, np.full_like(RGB, 255)),
        (torch.from_numpy(RGB), RGB),
    ):
        found = read_image_rgb_u8(given)
        assert found.dtype == np.uint8 and min(found.strides) > 0
        np.testing.assert_array_equal(found, wanted)
    rule = r"an array is uint8 [H, W, 3] (RGB), [H, W, 4] (RGBA) or [H, W] (gray), or bool [H, W], not "
    for wrong, shown in (
        (RGB.transpose(2, 0, 1), "uint8 [3, 24, 32]"),
        (RGB / 255, "float64 [24, 32, 3]"),
        (RGB.astype(np.uint16), "uint16 [24, 32, 3]"),
        (RGB[None], "uint8 [1, 24, 32, 3]"),
        (RGB[..., :2], "uint8 [24, 32, 2]"),
        (np.uint8(3), "uint8 []"),
        (np.dstack([gray > 9] * 3), "bool [24, 32, 3]"),
    ):
        assert refusal(wrong) == rule + shown
    assert refusal(RGB[:0]) == "the array uint8 [0, 32, 3] holds no pixel"
    assert refusal(PNG) == "an image is a path, a Pillow image or an array, not bytes"
    assert refusal(io.BytesIO(PNG)) == "an image is a path, a Pillow image or an array, not BytesIO"
    assert "is no array (Can't call numpy() on Tensor that requires grad" in refusal(torch.ones(2, requires_grad=True))
    assert "the cap of 50 million" in refusal(np.broadcast_to(np.uint8(1), (10_000, 10_000, 3)))


def test_pillow_prints_nothing_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(MALFORMED["jpeg further images"])
    header = PNG[:16] + struct.pack(">II", 10_000, 10_000) + PNG[24:29]
    (tmp_path / "b.png").write_bytes(header + struct.pack(">I", zlib.crc32(header[12:])) + PNG[33:])
    code = (
        "import sys; from pathlib import Path; from ullava.media.images import *\n"
        "for name in sys.argv[1:]:\n"
        "    try: read_image_rgb_u8(Path(name))\n"
        "    except Exception as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.jpg"), str(tmp_path / "b.png")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == "" and done.stdout.count("\n") == 1 and "the cap of 50 million" in done.stdout
