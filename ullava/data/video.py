"""Videos from disk, decoded safely: three formats known by content, caps on size, errors that name the file.

MP4 (with MOV) and AVI are decoded by PyAV, the optional extra ``video``. GIF is decoded by Pillow whether that extra is
there or not, so that the same file gives the same pixels everywhere. Frames are numbered as they are shown, from 0;
time stamps play no part. What is chosen from them is the caller's business (``ullava.data.frames``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from ullava.data.frames import choose_frames
from ullava.data.images import on_white
from ullava.errors import DataError
from ullava.structures import Clip, ImageArray

MAX_PIXELS = 10_000_000
"""Of one frame; a 4K frame has 8.3 million."""
MAX_FRAMES = 200_000
"""Nearly two hours at 30 frames a second."""
FORMATS = ("mp4", "avi", "gif")
_NAMES = ", ".join(FORMATS)
_HEAD_BYTES = 16

Choose = Callable[[int], Sequence[int]]


def read_clip(clip: Clip, count: int) -> ImageArray:
    """Decode the ``count`` frames of a clip that the model sees: uint8 [T, H, W, 3], upright.

    T is ``count`` except for the ``original_`` ways of sampling. Raises DataError as ``read_frames``.
    """
    return read_frames(clip.path, lambda length: choose_frames(length, count, clip.sampling, clip.seed))


def read_frames(path: Path, choose: Choose) -> ImageArray:
    """Decode the frames that ``choose`` picks, given how many there are: uint8 [T, H, W, 3], repeats included.

    Raises DataError naming the file if it is missing, empty, cut off, of another format (by content, not by name),
    above the caps, without a picture, or if PyAV is needed and not there.
    """
    kind = video_format(path)
    return _read_gif(path, choose) if kind == "gif" else _read_container(path, kind, choose)


def check_video(path: Path) -> None:
    """Decode the first and the last frame. Raises DataError as ``read_frames``."""
    read_frames(path, lambda length: [0, length - 1])


def video_format(path: Path) -> str:
    """Return which of ``FORMATS`` the file is, from its first bytes. Raises DataError if it is none."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such video") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if head[4:8] == b"ftyp":
        return "mp4"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    raise DataError(f"{path}: {f'not a video of a known format ({_NAMES})' if head else 'the file is empty'}")


def _check_size(path: Path, width: int, height: int, length: int) -> None:
    if width * height > MAX_PIXELS:
        size = f"{width} x {height}"
        raise DataError(f"{path}: frames of {size} pixels are more than the cap of {MAX_PIXELS // 1_000_000} million")
    if length > MAX_FRAMES:
        raise DataError(f"{path}: more than {MAX_FRAMES} frames")


# ---------------------------------------------------------------- GIF
def _read_gif(path: Path, choose: Choose) -> ImageArray:
    try:
        length = _count_gif_frames(path.read_bytes())
    except IndexError as error:
        raise DataError(f"{path}: the file is cut off: its last block has no end") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if not length:
        raise DataError(f"{path}: holds no frame")
    try:
        with path.open("rb") as file, Image.open(file, formats=("GIF",)) as picture:
            _check_size(path, picture.width, picture.height, length)
            wanted = choose(length)
            frames: dict[int, ImageArray] = {}
            for number in sorted(set(wanted)):
                picture.seek(number)
                frames[number] = on_white(picture)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be decoded ({error})") from error
    return np.stack([frames[number] for number in wanted])


def _count_gif_frames(data: bytes) -> int:
    """Count the pictures of a GIF by walking its blocks (GIF89a specification, 1990), without decoding any.

    Raises IndexError where the data ends within a block or without the end mark, ValueError for an unknown block.
    """
    place = 13 + _colour_table_bytes(data[10])
    length = 0
    while data[place] != 0x3B:
        if data[place] == 0x2C:
            place += 10 + _colour_table_bytes(data[place + 9]) + 1
            length += 1
        elif data[place] == 0x21:
            place += 2
        else:
            raise ValueError(f"not a valid GIF: byte {place} begins no known block")
        while data[place]:
            place += data[place] + 1
        place += 1
    return length


def _colour_table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


# ---------------------------------------------------------------- MP4, AVI
def _pyav(path: Path) -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise DataError(f"{path}: mp4 and avi need PyAV; install the extra: pip install 'ullava[video]'") from error
    module: ModuleType = av
    return module


def _read_container(path: Path, kind: str, choose: Choose) -> ImageArray:
    av = _pyav(path)
    try:
        length, stored, stated = _count_packets(av, path, kind)
        if stated > stored:
            raise DataError(f"{path}: the file is cut off: it says {stated} frames and holds {stored}")
        wanted = list(choose(length))
        frames, seen = _decode(av, path, kind, wanted)
        if any(number not in frames for number in wanted):
            # Some encoders store packets that show nothing; then the number of frames is what decoding gives.
            wanted = list(choose(seen)) if seen else []
            frames, seen = _decode(av, path, kind, wanted)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be decoded ({error})") from error
    if not wanted or any(number not in frames for number in wanted):
        raise DataError(f"{path}: holds no frame that can be decoded")
    return np.stack([frames[number] for number in wanted])


def _open(av: Any, path: Path, kind: str) -> Any:
    """Open with the one demuxer of ``kind`` and plain files only: a video must not name other files or hosts."""
    return av.open(str(path), mode="r", format=kind, options={"protocol_whitelist": "file"})


def _stream(path: Path, container: Any) -> Any:
    if not container.streams.video:
        raise DataError(f"{path}: has no video stream")
    return container.streams.video[0]


def _count_packets(av: Any, path: Path, kind: str) -> tuple[int, int, int]:
    """Return how many frames are shown, how many are stored, and how many the header states (0: it does not say)."""
    with _open(av, path, kind) as container:
        stream = _stream(path, container)
        packets = [(packet.is_discard, packet.is_corrupt) for packet in container.demux(stream) if packet.size]
        stored = [hidden for hidden, _ in packets]
        _check_size(path, stream.width, stream.height, len(stored))
        if any(broken for _, broken in packets):
            raise DataError(f"{path}: the file is cut off or damaged: not every frame is whole")
        return stored.count(False), len(stored), int(stream.frames)


def _decode(av: Any, path: Path, kind: str, wanted: Sequence[int]) -> tuple[dict[int, ImageArray], int]:
    """Return the wanted frames by number, and how many were seen on the way (decoding stops after the last)."""
    frames: dict[int, ImageArray] = {}
    seen = 0
    with _open(av, path, kind) as container:
        stream = _stream(path, container)
        for number, frame in enumerate(container.decode(stream)):
            seen = number + 1
            if number in wanted:
                if frame.is_corrupt:
                    raise DataError(f"{path}: frame {number} is damaged")
                frames[number] = np.ascontiguousarray(
                    np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                )
            if seen > max(wanted, default=-1):
                break
    return frames, seen
