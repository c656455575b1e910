from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ullava.data.loading.encode import read_images
from ullava.errors import DataError, SampleError
from ullava.media import images
from ullava.media.images import read_foreground, read_image_rgb_u8, read_label_png

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_colors_come_back(tmp_path, suffix):
    Image.fromarray(RGB).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_image_rgb_u8(tmp_path / f"a.{suffix}"), RGB)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_the_name_does_not_have_to_tell_the_format(tmp_path, kind):
    Image.new("RGB", (7, 5), (200, 30, 30)).save(tmp_path / "a.png", format=kind)
    image = read_image_rgb_u8(tmp_path / "a.png")
    assert image.shape == (5, 7, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - [200, 30, 30]).max() < 12


@pytest.mark.parametrize(("mode", "pixel"), [("L", [90, 90, 90]), ("1", [255, 255, 255]), ("P", [90, 90, 90])])
def test_other_modes_become_rgb(tmp_path, mode, pixel):
    Image.fromarray(np.full((5, 7), 90 if mode != "1" else 255, np.uint8)).convert(mode).save(tmp_path / "a.png")
    assert read_image_rgb_u8(tmp_path / "a.png")[2, 3].tolist() == pixel


def test_transparent_pixels_are_white(tmp_path):
    Image.fromarray(np.array([[[9, 9, 9, 0], [9, 9, 9, 255]]], np.uint8)).save(tmp_path / "a.png")
    assert read_image_rgb_u8(tmp_path / "a.png").tolist() == [[[255, 255, 255], [9, 9, 9]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.kron(np.array([[10, 80, 160], [220, 40, 120]], np.uint8), np.ones((16, 16), np.uint8))
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", quality=95, exif=exif)
    found = read_image_rgb_u8(tmp_path / "a.jpg")[..., 0]
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 4


def test_a_missing_an_empty_and_a_wrong_file_are_named(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "words.jpg").write_text("not an image")
    (tmp_path / "folder.jpg").mkdir()
    Image.fromarray(RGB).save(tmp_path / "tiff.jpg", format="TIFF")
    for name, reason in {
        "missing.jpg": "no such image",
        "empty.jpg": "the file is empty",
        "words.jpg": "not an image of a known format",
        "tiff.jpg": "not an image of a known format",
        "folder.jpg": "is a folder, not a file",
    }.items():
        with pytest.raises(DataError, match=f"{tmp_path / name}: {reason}"):
            read_image_rgb_u8(tmp_path / name)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
def test_a_cut_off_image_is_an_error(tmp_path, kind):
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole", format=kind)
    data = (tmp_path / "whole").read_bytes()
    for share in (0.02, 0.3, 0.9):
        (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(DataError, match=str(tmp_path / "cut")):
            read_image_rgb_u8(tmp_path / "cut")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [8000, 30000])
def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path, side):
    """A few bytes of PNG that claim to be side x side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    (tmp_path / "huge.png").write_bytes(data)
    with pytest.raises(DataError, match=r"huge.png: .*the cap of 50 million"):
        read_image_rgb_u8(tmp_path / "huge.png")


def test_the_cap_is_a_number_of_pixels(tmp_path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 35)
    read_image_rgb_u8(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 34)
    with pytest.raises(DataError, match="7 x 5 pixels are more than the cap"):
        read_image_rgb_u8(tmp_path / "a.png")


def test_sixteen_bits_are_refused_as_a_image_and_read_as_labels(tmp_path):
    deep = np.array([[0, 300], [65535, 7]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        read_image_rgb_u8(tmp_path / "a.png")
    labels = read_label_png(tmp_path / "a.png")
    assert labels.dtype == np.int32 and labels.tolist() == deep.tolist()


def test_labels_are_numbers_not_colors(tmp_path):
    numbers = np.array([[0, 1, 2], [3, 4, 255]], np.uint8)
    image = Image.fromarray(numbers, mode="L")
    image.save(tmp_path / "grey.png")
    palette = Image.fromarray(numbers).convert("P")
    palette.putdata(numbers.ravel().tolist())
    palette.putpalette(RNG.integers(0, 256, 768).tolist())
    palette.save(tmp_path / "palette.png")
    for name in ("grey.png", "palette.png"):
        assert read_label_png(tmp_path / name).tolist() == numbers.tolist()
    Image.fromarray(RGB).save(tmp_path / "colours.png")
    with pytest.raises(DataError, match="one channel of class numbers, this one is RGB"):
        read_label_png(tmp_path / "colours.png")
    image.save(tmp_path / "pressed.jpg")
    with pytest.raises(DataError, match="have to be PNG, not JPEG"):
        read_label_png(tmp_path / "pressed.jpg")


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB"])
def test_foreground_in_every_form(tmp_path, mode):
    truth = np.zeros((6, 8), bool)
    truth[2:5, 3:7] = True
    Image.fromarray(truth.astype(np.uint8) * 255).convert(mode).save(tmp_path / "a.png")
    found = read_foreground(tmp_path / "a.png")
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, truth)


def test_foreground_is_above_half(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "a.png")
    assert read_foreground(tmp_path / "a.png").tolist() == [[False, False, True, True]]


def test_jpeg_masks_keep_their_pixels(tmp_path):
    truth = np.zeros((64, 64), bool)
    truth[13:50, 9:40] = True
    Image.fromarray(truth.astype(np.uint8) * 255).save(tmp_path / "a.jpg", quality=80)
    np.testing.assert_array_equal(read_foreground(tmp_path / "a.jpg"), truth)


def test_a_colored_mask_is_refused(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="a foreground image is gray, this one has colors"):
        read_foreground(tmp_path / "a.png")
    Image.fromarray(np.zeros((2, 2, 4), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match="this one is RGBA"):
        read_foreground(tmp_path / "b.png")


def test_at_encoding_an_unreadable_image_is_an_error_of_its_sample(tmp_path):
    with pytest.raises(SampleError, match="no such image") as caught:
        read_images([tmp_path / "missing.jpg"], "shapes_res/drawn/7")
    assert caught.value.sample == "shapes_res/drawn/7"
