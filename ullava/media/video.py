"""Videos from disk, decoded safely: three formats known by content, caps on size, errors that name the file.

MP4 (with MOV) and AVI are decoded by PyAV, the optional extra ``video``. GIF is decoded by Pillow whether that extra is
there or not, so that the same file gives the same pixels everywhere. Frames are numbered as they are shown, from 0;
time stamps play no part. What is chosen from them is the caller's business (``ullava.media.frames``).
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from ullava.errors import DataError
from ullava.given_files import open_plain
from ullava.media.frames import choose_frames
from ullava.media.images import first_line, on_white
from ullava.media.mp4_counts import stated_samples
from ullava.structures import Clip, ImageArray

MAX_PIXELS = 10_000_000
"""Of one frame; a 4K frame has 8.3 million."""
MAX_FRAMES = 200_000
"""Nearly two hours at 30 frames a second."""
MAX_ALL_PIXELS = 500_000_000_000
"""Of all frames together: they are decoded up to the last one chosen. Two hours of 1920 x 1080 have 450 billion."""
MAX_GIF_PIXELS = 5_000_000_000
"""The same for a GIF, whose decoder is slower and which has no sound to keep it long."""
MAX_FRAGMENT_SAMPLES = 20 * MAX_FRAMES
"""Of a fragmented MP4, sound included."""
FORMATS = ("mp4", "avi", "gif")
_NAMES = ", ".join(FORMATS)
_HEAD_BYTES = 16

Choose = Callable[[int], Sequence[int]]


def read_clip(clip: Clip, count: int) -> ImageArray:
    """Decode the ``count`` frames of a clip that the model sees: uint8 [T, H, W, 3], upright.

    T is ``count`` except for the ``original_`` ways of sampling. Raises DataError as ``read_frames``, and for a file of
    another length than the clip's.
    """

    def choose(length: int) -> Sequence[int]:
        if clip.length not in (None, length):
            raise DataError(f"{clip.path}: {length} frames, but its annotation speaks of {clip.length}")
        return choose_frames(length, count, clip.sampling, clip.seed)

    return read_frames(clip.path, choose)


def read_frames(path: Path, choose: Choose) -> ImageArray:
    """Decode the frames that ``choose`` picks, given how many there are: uint8 [T, H, W, 3], repeats included.

    Raises DataError naming the file if it is missing, empty, cut off, of another format (by content, not by name),
    above the caps, without an image, or if PyAV is needed and not there.
    """
    kind = video_format(path)
    return _read_gif(path, choose) if kind == "gif" else _read_container(path, kind, choose)


def count_frames(path: Path) -> int:
    """Count the frames of a video without decoding them. Raises DataError as ``read_frames``.

    A container may store a few that show nothing, which only decoding tells.
    """
    kind = video_format(path)
    if kind == "gif":
        with open_plain(path, what="video") as file:
            length = _checked_gif_length(path, file)
    else:
        av = _pyav(path)
        with _decoding(path):
            length = _checked_length(av, path, kind)
    if not length:
        raise DataError(f"{path}: holds no frame")
    return length


def iter_frames(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, ImageArray]]:
    """Decode a video frame after frame: the number of each and its pixels, uint8 [H, W, 3], upright.

    Those from ``start`` on and before ``stop`` (None: to the end). Nothing is kept of a frame that was handed over.
    Raises DataError as ``read_frames``, where it comes to what is wrong.
    """
    kind = video_format(path)
    frames = _gif_frames(path) if kind == "gif" else _container_frames(path, kind)
    size: tuple[int, int] | None = None
    for number, read in frames:
        if stop is not None and number >= stop:
            break
        if number < start:
            continue
        with _decoding(path):
            frame = read()
        size = frame.shape[:2] if size is None else size
        _check_alike(path, number, frame.shape[:2], start, size)
        yield number, frame
        del frame, read
    if size is None:
        raise DataError(f"{path}: holds no frame that can be decoded")


def iter_frames_backwards(path: Path, stop: int, at_once: int) -> Iterator[tuple[int, ImageArray]]:
    """Decode the frames before ``stop`` from the last to the first; ``at_once`` of them are held at a time.

    The file is read forward again for each of these portions. Raises DataError as ``iter_frames``.
    """
    while stop > 0:
        start = max(0, stop - at_once)
        held = list(iter_frames(path, start, stop))
        while held:
            yield held.pop()
        stop = start


def check_video(path: Path) -> None:
    """Decode the first and the last frame. Raises DataError as ``read_frames``."""
    read_frames(path, lambda length: [0, length - 1])


def video_format(path: Path) -> str:
    """Return which of ``FORMATS`` the file is, from its first bytes. Raises DataError if it is none."""
    with open_plain(path, what="video") as file:
        head = file.read(_HEAD_BYTES)
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if head[4:8] == b"ftyp":
        return "mp4"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    raise DataError(f"{path}: {f'not a video of a known format ({_NAMES})' if head else 'the file is empty'}")


def _check_size(path: Path, width: int, height: int, length: int, all_pixels: int) -> None:
    if width * height > MAX_PIXELS:
        size = f"{width} x {height}"
        raise DataError(f"{path}: frames of {size} pixels are more than the cap of {MAX_PIXELS // 1_000_000} million")
    if length > MAX_FRAMES:
        raise DataError(f"{path}: more than {MAX_FRAMES} frames")
    if width * height * length > all_pixels:
        raise DataError(
            f"{path}: {length} frames of {width} x {height} pixels are more than the cap of "
            f"{all_pixels // 1_000_000_000} billion pixels together"
        )


def _stacked(path: Path, frames: Mapping[int, ImageArray], wanted: Sequence[int]) -> ImageArray:
    """Return the wanted frames as one array. Raises DataError where they are not of one size."""
    first = min(frames)
    for number, frame in frames.items():
        _check_alike(path, number, frame.shape[:2], first, frames[first].shape[:2])
    return np.stack([frames[number] for number in wanted])


def _check_alike(path: Path, number: int, size_hw: tuple[int, ...], first: int, first_hw: tuple[int, ...]) -> None:
    if size_hw != first_hw:
        sizes = [f"{width} x {height}" for height, width in (size_hw, first_hw)]
        raise DataError(f"{path}: frame {number} has {sizes[0]} pixels, frame {first} has {sizes[1]}")


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Say of what a decoder raises which file it was: DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # foreign bytes in foreign code: there is no list of what may be raised
        raise DataError(f"{path}: cannot be decoded ({first_line(error)})") from error


# ---------------------------------------------------------------- GIF
def _read_gif(path: Path, choose: Choose) -> ImageArray:
    with open_plain(path, what="video") as file:
        length = _checked_gif_length(path, file)
    if not length:
        raise DataError(f"{path}: holds no frame")
    frames: dict[int, ImageArray] = {}
    wanted: list[int] | None = None
    for number, read in _gif_frames(path):
        if wanted is None:  # a canvas above the cap comes first
            wanted = list(choose(length))
            if not wanted:
                raise DataError(f"{path}: of {length} frames none is chosen")
        if number in wanted:
            with _decoding(path):
                frames[number] = read()
        if number == max(wanted):
            break
    return _stacked(path, frames, wanted or [])


def _checked_gif_length(path: Path, file: Any) -> int:
    """Count the frames of a GIF. Raises DataError for one that is cut off or none."""
    try:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _count_gif_frames(data)
    except IndexError as error:
        raise DataError(f"{path}: the file is cut off: its last block has no end") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _gif_frames(path: Path) -> Iterator[tuple[int, Callable[[], ImageArray]]]:
    """The number of each frame, and what reads it before the next one is asked for."""
    with open_plain(path, what="video") as file:
        length = _checked_gif_length(path, file)
        with _decoding(path), Image.open(file, formats=("GIF",)) as image:
            for number in range(length):  # a frame may enlarge the canvas, and all are decoded on the way
                image.seek(number)
                _check_size(path, *image.size, length, MAX_GIF_PIXELS)
                yield number, lambda: on_white(image)


def _count_gif_frames(data: bytes | mmap.mmap) -> int:
    """Count the images of a GIF by walking its blocks (GIF89a specification, 1990), without decoding any.

    Raises IndexError where the data ends within a block or without the end mark, ValueError for an unknown block.
    """
    place = 13 + _color_table_bytes(data[10])
    length = 0
    while data[place] != 0x3B:
        if data[place] == 0x2C:
            place += 10 + _color_table_bytes(data[place + 9]) + 1
            length += 1
            if length > MAX_FRAMES:
                return length
        elif data[place] == 0x21:
            place += 2
        else:
            raise ValueError(f"not a valid GIF: byte {place} begins no known block")
        while data[place]:
            place += data[place] + 1
        place += 1
    return length


def _color_table_bytes(flags: int) -> int:
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
    with _decoding(path):
        length = _checked_length(av, path, kind)
        wanted = list(choose(length)) if length else []
        frames, seen = _decode(path, kind, wanted)
        if any(number not in frames for number in wanted):
            # Some encoders store packets that show nothing; then the number of frames is what decoding gives.
            wanted = list(choose(seen)) if seen else []
            frames, seen = _decode(path, kind, wanted)
    if not wanted or any(number not in frames for number in wanted):
        raise DataError(f"{path}: holds no frame that can be decoded")
    return _stacked(path, frames, wanted)


def _checked_length(av: Any, path: Path, kind: str) -> int:
    """Count the frames that are shown. Raises DataError for a file with fewer than it says, or more than allowed."""
    if kind == "mp4":
        _check_counts(path)
    length, stored, stated = _count_packets(av, path, kind)
    if stated > stored:
        raise DataError(f"{path}: the file is cut off: it says {stated} frames and holds {stored}")
    return length


def _check_counts(path: Path) -> None:
    """Raise DataError for an MP4 that says it holds more samples than can be indexed in bounded memory."""
    with open_plain(path, what="video") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        counts = stated_samples(data)
    if counts.video > MAX_FRAMES:
        raise DataError(f"{path}: more than {MAX_FRAMES} frames")
    if counts.fragments > MAX_FRAGMENT_SAMPLES:
        raise DataError(f"{path}: its fragments say more than {MAX_FRAGMENT_SAMPLES} samples")


def _open(av: Any, path: Path, kind: str) -> Any:
    """Open with the one demuxer of ``kind`` and plain files only: a video must not name other files or hosts."""
    options = {"protocol_whitelist": "file"}
    return av.open(str(path), mode="r", format=kind, options=options, metadata_errors="replace")


def _stream(path: Path, container: Any) -> Any:
    """Return the first video stream, its decoder told to make no frame above the cap, whatever the file says."""
    if not container.streams.video:
        raise DataError(f"{path}: has no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise DataError(f"{path}: the codec of its video stream is not known to FFmpeg")
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def _count_packets(av: Any, path: Path, kind: str) -> tuple[int, int, int]:
    """Return how many frames are shown, how many are stored, and how many the header states (0: it does not say)."""
    shown = stored = 0
    broken = False
    with _open(av, path, kind) as container:
        stream = _stream(path, container)
        _check_size(path, stream.width, stream.height, 0, MAX_ALL_PIXELS)
        for packet in container.demux(stream):
            if packet.size:
                stored += 1
                shown += not packet.is_discard
                broken = broken or bool(packet.is_corrupt)
            if stored > MAX_FRAMES:
                break
        _check_size(path, stream.width, stream.height, stored, MAX_ALL_PIXELS)
        if broken:
            raise DataError(f"{path}: the file is cut off or damaged: not every frame is whole")
        return shown, stored, int(stream.frames)


def _container_frames(path: Path, kind: str) -> Iterator[tuple[int, Callable[[], ImageArray]]]:
    """The number of each frame, and what reads it before the next one is asked for."""
    av = _pyav(path)
    with _decoding(path), _open(av, path, kind) as container:
        for number, frame in enumerate(container.decode(_stream(path, container))):
            _check_size(path, frame.width, frame.height, number + 1, MAX_ALL_PIXELS)
            yield number, partial(_upright, path, number, frame)


def _upright(path: Path, number: int, frame: Any) -> ImageArray:
    """Return the pixels uint8 [H, W, 3] of a decoded frame. Raises DataError for one that is damaged."""
    if frame.is_corrupt:
        raise DataError(f"{path}: frame {number} is damaged")
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


def _decode(path: Path, kind: str, wanted: Sequence[int]) -> tuple[dict[int, ImageArray], int]:
    """Return the wanted frames by number, and how many were seen on the way (decoding stops after the last)."""
    frames: dict[int, ImageArray] = {}
    seen = 0
    for number, read in _container_frames(path, kind):
        seen = number + 1
        if number in wanted:
            frames[number] = read()
        if seen > max(wanted, default=-1):
            break
    return frames, seen
