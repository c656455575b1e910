"""Image files: every form that means something, and damage; through ``ullava predict``."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image
from tests.fuzz.cases import Case
from tests.fuzz.material import pixels, shared
from tests.fuzz.mutations import damage_bytes, damage_path

SHARE = 10
HEIGHT, WIDTH = 30, 40


def prepare(base: Path) -> None:
    """Nothing: files are made one by one."""


def make(rng: Random, folder: Path, base: Path) -> Case:
    """An odd form of a sound image, a damaged one, or something else in its place."""
    shown = pixels(5, HEIGHT, WIDTH)
    name, data, expected, lossy = _form(rng, shown)
    file = folder / rng.choice(["a.png", "a.jpg", "a", "a b.png", "a.PNG", "ä.png", "a.webp", "a.txt"])
    file.write_bytes(data)
    what = name
    if rng.random() < 0.45:
        if rng.random() < 0.85:
            data, what = damage_bytes(rng, data)
            file.write_bytes(data)
        else:
            what = damage_path(rng, file)
        what, expected = f"{name}; {what}", "either"
    argv = ["predict", "--model", str(shared(base, "weights")), "--image", file.name, "--prompt", "What is this?"]
    argv += ["--max-new-tokens", "2", "--out", "out"]
    known = shown if expected == "accepted" else None
    return Case(argv=argv, what=what, names=(file.name,), expected=expected, check=lambda _: check(file, known, lossy))


def _save(image: Image.Image, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **settings)
    return file.getvalue()


def _form(rng: Random, shown: np.ndarray) -> tuple[str, bytes, str, int]:
    """Name, bytes, what is expected, and by how much its pixels may differ from ``shown``."""
    plain = Image.fromarray(shown)
    kind = rng.choice(["exif", "exif", "plain", "plain", "mode", "refused", "huge", "animation"])
    if kind == "exif":
        number = rng.randint(1, 8)
        turned = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(number)
        stored = plain if turned is None else plain.transpose(Image.Transpose(turned))
        exif = Image.Exif()
        exif[0x0112] = number
        form = rng.choice(["JPEG", "PNG", "WEBP"])
        quality = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
        return f"{form} turned {number}", _save(stored, form, exif=exif, **quality), "accepted", 12
    if kind == "plain":
        form = rng.choice(["PNG", "BMP", "JPEG", "WEBP"])
        quality = {"JPEG": {"quality": 100, "subsampling": 0, "progressive": True}, "WEBP": {"lossless": True}}
        return form, _save(plain, form, **quality.get(form, {})), "accepted", 12
    if kind == "mode":
        return _mode(rng, plain)
    if kind == "animation":
        form = rng.choice(["GIF", "WEBP", "PNG"])
        frames = [plain, plain.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
        data = _save(frames[0], form, save_all=True, append_images=frames[1:], duration=100)
        return f"animated {form}", data, "accepted", 255
    if kind == "huge":
        width, height = rng.choice([(60_000, 60_000), (2**31 - 1, 1), (0, 10), (9000, 9000), (1, 1)])
        data = _png_of(width, height)
        return f"PNG of {width} x {height}", data, "accepted" if width == 1 else "refused", 255
    form = rng.choice(["16", "TIFF", "PPM", "ICO", "F", "text", "svg", "html", "PDF", "JPEG2000"])
    if form == "16":
        return "16 bits grey", _save(Image.fromarray(shown[..., 0].astype(np.uint16) * 257), "PNG"), "either", 255
    if form == "F":
        return "TIFF of floats", _save(Image.fromarray(shown[..., 0].astype(np.float32)), "TIFF"), "refused", 0
    texts = {"text": b"hello\n", "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "html": b"<html>404</html>"}
    return form, texts.get(form) or _save(plain, form), "refused", 0


def _mode(rng: Random, plain: Image.Image) -> tuple[str, bytes, str, int]:
    """An image without transparency to see, stored in another way."""
    mode = rng.choice(["RGBA", "CMYK", "P", "L", "1", "LA", "key"])
    if mode == "CMYK":
        return "CMYK", _save(plain.convert("CMYK"), "JPEG", quality=100, subsampling=0), "accepted", 24
    if mode == "P":
        return "palette", _save(plain.quantize(256), "PNG"), "accepted", 60
    if mode == "key":
        return "transparent color", _save(plain, "PNG", transparency=(1, 2, 3)), "accepted", 2
    if mode in ("L", "1", "LA"):
        return f"mode {mode}", _save(plain.convert("L").convert(mode), "PNG"), "accepted", 255
    return "RGBA", _save(plain.convert("RGBA"), "PNG"), "accepted", 0


def _png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises more than it holds, but for one of 1 x 1."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\x00" + b"\x7f\x7f\x7f" * min(width, 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def check(file: Path, shown: np.ndarray | None, lossy: int) -> list[str]:
    """There is an answer and an overlay of the upright size; sound forms are decoded to the known pixels."""
    from ullava.media.images import read_image_rgb_u8

    json.loads(Path("out/answer.json").read_text())
    read = read_image_rgb_u8(file)
    overlay = np.asarray(Image.open("out/overlay.png"))
    # Small images are shown enlarged.
    enlarged = overlay.shape[1] / read.shape[1]
    problems = [] if enlarged >= 1 else [f"overlay of {overlay.shape} of an image of {read.shape}"]
    if shown is not None and read.shape != (1, 1, 3):
        if read.shape != shown.shape:
            problems.append(f"decoded to {read.shape}, it has {shown.shape}")
        elif np.abs(read.astype(int) - shown).max() > lossy:
            problems.append(f"pixels differ by up to {np.abs(read.astype(int) - shown).max()}")
    return problems
