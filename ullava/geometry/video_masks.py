"""The masks of one object through a clip: one COCO run-length code for each frame, decoded one frame at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from pycocotools import mask as coco_mask

from ullava.errors import did_you_mean
from ullava.geometry.masks import MAX_MASK_PIXELS, Rle, SegmentationError, rle_area, rle_decode, rle_encode
from ullava.structures import MaskArray

_KEYS = ("size", "counts", "unannotated")


@dataclass(frozen=True, slots=True)
class VideoMasks:
    """Where one object is in each of the T frames of a clip, in frame order, in the clip's original H x W pixels.

    ``counts[t]`` is COCO's compressed run-length code of frame t, None where the object is not there (not yet in view,
    gone, hidden). A mask without a pixel says the same and is kept as None. ``unannotated`` are frames of a truth that
    nobody has looked at, which is not the same as absent: they have None too, and no metric counts them.

    Made by ``from_masks``, ``from_rles`` and ``from_json``, which check what they are given.
    """

    size_hw: tuple[int, int]
    counts: tuple[str | None, ...]
    unannotated: frozenset[int] = frozenset()

    @classmethod
    def from_masks(
        cls, masks: Iterable[MaskArray | None], size_hw: tuple[int, int], unannotated: Iterable[int] = ()
    ) -> VideoMasks:
        """Encode bool [H, W] masks in frame order, or one array bool [T, H, W]; only one of them is looked at a time.

        Raises:
            SegmentationError: a mask that is not bool [H, W] of this size, no frame, a frame of ``unannotated`` that
                the clip has not or that has a mask.
        """
        counts: list[str | None] = []
        for frame, mask in enumerate(masks):
            if mask is not None and (mask.dtype != np.bool_ or mask.shape != tuple(size_hw)):
                raise SegmentationError(
                    f"frame {frame}: a mask has to be bool {list(size_hw)}, not {mask.dtype} {list(mask.shape)}"
                )
            counts.append(rle_encode(mask)["counts"] if mask is not None and mask.any() else None)
        return cls._checked(size_hw, counts, unannotated)

    @classmethod
    def from_rles(
        cls, rles: Iterable[Mapping[str, Any] | None], size_hw: tuple[int, int], unannotated: Iterable[int] = ()
    ) -> VideoMasks:
        """Take COCO run-length codes in frame order, compressed or not, without decoding the compressed ones.

        Raises:
            SegmentationError: naming the frame, for a code that cannot be read or is of another size; as
                ``from_masks`` otherwise.
        """
        counts: list[str | None] = []
        for frame, rle in enumerate(rles):
            try:
                counts.append(None if rle is None else _compressed(rle, size_hw))
            except SegmentationError as error:
                raise SegmentationError(f"frame {frame}: {error}") from error
        return cls._checked(size_hw, counts, unannotated)

    @classmethod
    def from_json(cls, value: Any) -> VideoMasks:
        """Read ``{"size": [H, W], "counts": [code or null, ...]}``, and ``unannotated`` (frame numbers) where it is.

        Raises:
            SegmentationError: naming the key or the frame that is wrong.
        """
        if not isinstance(value, Mapping):
            raise SegmentationError(f"masks of a clip have to be an object with size and counts, not {value!r:.60}")
        for key in value:
            if key not in _KEYS:
                raise SegmentationError(f"unknown key '{key}'{did_you_mean(str(key), _KEYS)}")
        for key in _KEYS[:2]:
            if key not in value:
                raise SegmentationError(f"no '{key}'{did_you_mean(key, map(str, value))}")
        size, counts, unannotated = value["size"], value["counts"], value.get("unannotated", [])
        if not (isinstance(size, list) and len(size) == 2 and all(_is_whole(side) and side > 0 for side in size)):
            raise SegmentationError(f"'size' has to be [height, width], not {size!r:.60}")
        if not isinstance(counts, list):
            raise SegmentationError(f"'counts' has to be a list with a code or null for each frame, not {counts!r:.60}")
        if not (isinstance(unannotated, list) and all(map(_is_whole, unannotated))):
            raise SegmentationError(f"'unannotated' has to be a list of frame numbers, not {unannotated!r:.60}")
        rles = (None if code is None else {"size": size, "counts": code} for code in counts)
        return cls.from_rles(rles, (size[0], size[1]), unannotated)

    @classmethod
    def absent(cls, size_hw: tuple[int, int], frames: int) -> VideoMasks:
        """Return an object that no frame shows. Raises SegmentationError for no frame."""
        return cls.from_rles([None] * frames, size_hw)

    @classmethod
    def _checked(cls, size_hw: tuple[int, int], counts: Sequence[str | None], unannotated: Iterable[int]) -> VideoMasks:
        height, width = size_hw
        if not 0 < height * width <= MAX_MASK_PIXELS:
            raise SegmentationError(f"masks of {height}x{width} (HxW) have no pixel, or more than {MAX_MASK_PIXELS}")
        if not counts:
            raise SegmentationError("masks of a clip need one frame or more")
        unseen = frozenset(unannotated)
        for frame in sorted(unseen):
            if not 0 <= frame < len(counts):
                raise SegmentationError(f"unannotated frame {frame}: the clip has frames 0 to {len(counts) - 1}")
            if counts[frame] is not None:
                raise SegmentationError(f"unannotated frame {frame} has a mask")
        return cls((int(height), int(width)), tuple(counts), unseen)

    def __len__(self) -> int:
        """How many frames the clip has, T."""
        return len(self.counts)

    def __iter__(self) -> Iterator[MaskArray | None]:
        """Decode frame after frame: bool [H, W], None where the object is not there or nobody has looked."""
        for frame in range(len(self.counts)):
            yield None if self.counts[frame] is None else self.mask(frame)

    def rle(self, frame: int) -> Rle | None:
        """Return the code of one frame, as pycocotools and JSON take it; None as ``counts``."""
        code = self.counts[frame]
        return None if code is None else {"size": list(self.size_hw), "counts": code}

    def mask(self, frame: int) -> MaskArray:
        """Decode one frame: bool [H, W], without a pixel where the object is not there."""
        code = self.rle(frame)
        return np.zeros(self.size_hw, dtype=np.bool_) if code is None else rle_decode(code)

    def area_px(self, frame: int) -> int:
        """Count the pixels of one frame without decoding it."""
        code = self.rle(frame)
        return 0 if code is None else rle_area(code)

    @property
    def is_absent(self) -> bool:
        """Whether no frame shows the object."""
        return all(code is None for code in self.counts)

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` reads."""
        unseen = {"unannotated": sorted(self.unannotated)} if self.unannotated else {}
        return {"size": list(self.size_hw), "counts": list(self.counts), **unseen}


def united(objects: Sequence[VideoMasks]) -> VideoMasks:
    """Unite several objects of one clip frame by frame, what an expression that means them all is judged by.

    A frame is unannotated where it is in any of them: what is covered there is not known whole.

    Raises:
        SegmentationError: no object, or objects of other frames or another size.
    """
    if not objects:
        raise SegmentationError("no masks to unite")
    first = objects[0]
    for other in objects[1:]:
        if (other.size_hw, len(other)) != (first.size_hw, len(first)):
            _fail_apart(first, other)
    unseen = frozenset[int]().union(*(one.unannotated for one in objects))
    rles: list[Rle | None] = []
    for frame in range(len(first)):
        codes = [code for one in objects if (code := one.rle(frame)) is not None and frame not in unseen]
        rles.append(_merged(codes) if codes else None)
    return VideoMasks.from_rles(rles, first.size_hw, unseen)


def _fail_apart(first: VideoMasks, other: VideoMasks) -> NoReturn:
    told = [f"{len(one)} frames of {one.size_hw[1]}x{one.size_hw[0]} (WxH)" for one in (first, other)]
    raise SegmentationError(f"masks are of different clips: {told[0]} and {told[1]}")


def _merged(codes: Sequence[Rle]) -> Rle:
    if len(codes) == 1:
        return codes[0]
    merged = coco_mask.merge(list(codes))
    return {"size": [int(side) for side in merged["size"]], "counts": merged["counts"].decode("ascii")}


def _compressed(rle: Mapping[str, Any], size_hw: tuple[int, int]) -> str | None:
    """Return the string of a code, None where it has no pixel. Raises SegmentationError."""
    area = rle_area(rle)
    if tuple(rle["size"]) != tuple(size_hw):
        raise SegmentationError(f"RLE is {rle['size'][1]}x{rle['size'][0]} (WxH), the clip {size_hw[1]}x{size_hw[0]}")
    counts = rle["counts"]
    if not area:
        return None
    if isinstance(counts, str):
        return counts
    return counts.decode("ascii") if isinstance(counts, bytes) else rle_encode(rle_decode(rle))["counts"]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
