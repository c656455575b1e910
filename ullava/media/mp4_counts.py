"""How many samples an MP4 or MOV file says it holds, told by its boxes (ISO/IEC 14496-12) before anything is decoded.

A decoder makes an index entry for each, so that a file of a few hundred bytes can ask for gigabytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

_FOLDERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"})
_HEAD_BYTES = 8
_LONG_HEAD_BYTES = 16
_MAX_BOXES = 1_000_000


class Counts(NamedTuple):
    """Samples of the longest video track, and of all fragments together, whatever they hold."""

    video: int
    fragments: int


def stated_samples(data: mmap.mmap) -> Counts:
    """Add up what the boxes of a file say. A box that is cut off says nothing: the decoder will find that out."""
    video = fragments = 0
    kind_of_track = b""
    for kind, start, stop in _boxes(data, 0, len(data)):
        if kind == b"hdlr" and data[start + 4 : start + 8] != b"dhlr":  # MOV has a second one, of where the data are
            kind_of_track = data[start + 8 : start + 12]
        elif kind == b"stsz" and stop - start >= 12 and kind_of_track == b"vide":
            video = max(video, int.from_bytes(data[start + 8 : start + 12], "big"))
        elif kind == b"trun" and stop - start >= 8:
            fragments += int.from_bytes(data[start + 4 : start + 8], "big")
    return Counts(video, fragments)


def _boxes(data: mmap.mmap, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind and place of what is in every box that holds no others, in the order of the file."""
    waiting = [(start, stop)]
    for _ in range(_MAX_BOXES):
        if not waiting:
            return
        start, stop = waiting.pop()
        if start + _HEAD_BYTES > stop:
            continue
        size, kind, head = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8], _HEAD_BYTES
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), _LONG_HEAD_BYTES
        end = stop if size == 0 else min(start + size, stop)
        if size and size < head:
            continue
        waiting.append((end, stop))
        if kind in _FOLDERS:
            waiting.append((start + head, end))
        else:
            yield kind, start + head, end
