"""An answer drawn on its clip, frame by frame: an MP4 (PyAV, the extra ``video``) or, without it, a GIF.

One frame is in memory at a time, decoded, drawn and encoded. Time stamps play no part: frames follow each other at
``FRAMES_PER_SECOND`` unless another rate is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import GifImagePlugin, Image

from ullava.atomic_write import whole
from ullava.errors import UserError, did_you_mean
from ullava.inference.screen import screen_overlay
from ullava.media.video import count_frames, iter_frames
from ullava.structures import GroundedObject, ImageArray

FRAMES_PER_SECOND = 10.0
CODECS = ("libx264", "mpeg4")
"""The first that FFmpeg has; browsers play the first."""
QUALITY = {"libx264": {"crf": "20", "preset": "fast"}, "mpeg4": {"qscale": "4"}}
GIF_COLORS = 128

Put = Callable[[ImageArray], None]


def overlay_suffix() -> str:
    """Return ``.mp4`` where PyAV is there, else ``.gif``."""
    return ".mp4" if find_spec("av") is not None else ".gif"


def write_overlay_video(
    path: Path,
    objects: Sequence[GroundedObject],
    out: Path,
    *,
    frames_per_second: float = FRAMES_PER_SECOND,
) -> None:
    """Draw the objects that have masks over time on every frame of a clip and write ``out``, .mp4 or .gif.

    ``path``: the clip, a file or a folder of frames. An object keeps its color; a frame that does not show it has no
    label of it. Long sides are a screen's at most (``ullava.inference.screen``).

    Raises:
        UserError: another suffix, an MP4 without PyAV, a rate that is not above 0, or masks of another clip. DataError:
            as ``ullava.media.video.iter_frames``. What was begun is removed then.
    """
    if not frames_per_second > 0:
        raise UserError(f"frames_per_second: has to be above 0, not {frames_per_second}")
    if out.suffix not in _WRITERS:
        raise UserError(f"{out}: an overlay of a clip is .mp4 or .gif{did_you_mean(out.suffix, _WRITERS)}")
    if out.suffix == ".mp4" and overlay_suffix() != ".mp4":
        raise UserError(f"{out}: MP4 needs PyAV; install the extra: pip install 'ullava[video]', or name a .gif")
    shown = [(place, item) for place, item in enumerate(objects) if item.masks is not None]
    length = count_frames(path)
    for _, item in shown:
        if item.masks is not None and len(item.masks) != length:
            raise UserError(f"{path}: has {length} frames, the masks of '{item.phrase}' {len(item.masks)}")
    with whole(out) as unfinished, _WRITERS[out.suffix](unfinished, frames_per_second) as put:
        for number, frame in iter_frames(path):
            put(_drawn(path, number, frame, shown))


def _drawn(path: Path, number: int, frame: ImageArray, shown: Sequence[tuple[int, GroundedObject]]) -> ImageArray:
    """Draw what one frame shows."""
    there: list[GroundedObject] = []
    colors: list[int] = []
    for place, item in shown:
        if item.masks is None or item.over_time is None or item.masks.counts[number] is None:
            continue
        if item.masks.size_hw != frame.shape[:2]:
            sizes = [f"{size[1]} x {size[0]}" for size in (frame.shape, item.masks.size_hw)]
            raise UserError(f"{path}: frames have {sizes[0]} pixels, the masks of '{item.phrase}' {sizes[1]}")
        there.append(replace(item, mask=item.masks.mask(number), score=item.over_time.scores[number], over_time=None))
        colors.append(place)
    return screen_overlay(frame, there, colors=colors)


# ---------------------------------------------------------------- files
@contextmanager
def _mp4(out: Path, frames_per_second: float) -> Iterator[Put]:
    import av

    codec = next(name for name in CODECS if name in av.codecs_available)
    with av.open(str(out), mode="w", format="mp4") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(frames_per_second).limit_denominator(1000))
        stream.pix_fmt, stream.options = "yuv420p", dict(QUALITY[codec])
        begun = False

        def put(frame: ImageArray) -> None:
            nonlocal begun
            even = _even(frame)
            if not begun:
                stream.height, stream.width = even.shape[:2]
                begun = True
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))

        yield put
        container.mux(stream.encode())


def _even(frame: ImageArray) -> ImageArray:
    """Repeat the last row and column where their number is odd: half of the colors are kept for two by two pixels."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


@contextmanager
def _gif(out: Path, frames_per_second: float) -> Iterator[Put]:
    """Write frame after frame; Pillow's ``save`` would hold all of them."""
    with out.open("wb") as file:
        begun = False

        def put(frame: ImageArray) -> None:
            nonlocal begun
            image = Image.fromarray(frame).quantize(GIF_COLORS, dither=Image.Dither.NONE)
            if not begun:
                file.writelines(GifImagePlugin.getheader(image.copy(), info={"loop": 0})[0])
                begun = True
            options: dict[str, Any] = {"duration": round(1000 / frames_per_second), "include_color_table": True}
            file.writelines(GifImagePlugin.getdata(image, (0, 0), **options))

        yield put
        file.write(b";")


_WRITERS: dict[str, Callable[[Path, float], AbstractContextManager[Put]]] = {".mp4": _mp4, ".gif": _gif}
