"""Masks: bitmaps bool [H, W], COCO's run-length codes and polygons, and the ways between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ullava.errors import DataError
from ullava.structures import BoxXYXY, MaskArray

MAX_MASK_PIXELS = 50_000_000
"""The largest mask that is decoded; the same bound as for images."""


class SegmentationError(DataError, ValueError):
    """A polygon or an RLE is not what its format allows. Readers add the sample's name and file."""


class Rle(TypedDict):
    """COCO's compressed run-length code of one mask: ``size`` is [H, W], ``counts`` the ASCII string."""

    size: list[int]
    counts: str


def mask_iou(mask_a: MaskArray, mask_b: MaskArray) -> float:
    """Intersection over union of two masks [H, W]. Two empty masks agree: 1."""
    if mask_a.shape != mask_b.shape:
        raise ValueError(f"masks differ in size: {mask_a.shape} and {mask_b.shape}")
    union = np.count_nonzero(mask_a | mask_b)
    return np.count_nonzero(mask_a & mask_b) / union if union else 1.0


def mask_ious(
    said: Sequence[MaskArray], true: Sequence[MaskArray], ignore: MaskArray | None = None
) -> NDArray[np.float64]:
    """IoU of masks [H, W] by pairs, [said, true]; pixels of ``ignore`` count nowhere. ValueError for other shapes."""
    if not said or not true:
        return np.zeros((len(said), len(true)))
    if len({mask.shape for mask in (*said, *true)}) > 1:
        raise ValueError("masks of one image have different sizes")

    def coded(masks: Sequence[MaskArray]) -> Any:
        kept = [mask if ignore is None else mask & ~ignore for mask in masks]
        return [coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in kept]

    return np.asarray(coco_mask.iou(coded(said), coded(true), [0] * len(true)), dtype=np.float64)


def mask_to_box_xyxy_px(mask: MaskArray) -> BoxXYXY | None:
    """Return the tight half-open box of a mask [H, W] (far side = last pixel + 1), or None if the mask is empty."""
    columns = np.flatnonzero(mask.any(axis=0))
    if columns.size == 0:
        return None
    rows = np.flatnonzero(mask.any(axis=1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def rle_encode(mask: MaskArray) -> Rle:
    """Encode a mask [H, W] as COCO's compressed RLE with an ASCII string, ready for JSON."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def rle_decode(rle: Mapping[str, Any]) -> MaskArray:
    """Decode COCO RLE, compressed (``counts`` a string) or not (a list of run lengths), to bool [H, W].

    Raises:
        SegmentationError: keys missing, a code that cannot be read, or runs that do not add up to H x W.
    """
    height, width = _rle_size(rle)
    runs = _whole_runs(rle)
    values = np.zeros(runs.size, dtype=np.bool_)
    values[1::2] = True
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def rle_area(rle: Mapping[str, Any]) -> int:
    """Count the pixels of a COCO RLE of either form, checked whole, without decoding it. Raises as ``rle_decode``."""
    return int(_whole_runs(rle)[1::2].sum())


def _whole_runs(rle: Mapping[str, Any]) -> NDArray[np.int64]:
    """Return the run lengths of a code, background first; SegmentationError where they are not those of its size."""
    height, width = _rle_size(rle)
    runs = _run_lengths(rle["counts"])
    if runs.size == 0 or int(runs.min()) < 0 or int(runs.sum()) != height * width:
        raise SegmentationError(f"RLE runs add up to {int(runs.sum())} pixels, but its size is {height}x{width} (HxW)")
    return runs


def _rle_size(rle: Mapping[str, Any]) -> tuple[int, int]:
    missing = [key for key in ("size", "counts") if key not in rle]
    if missing:
        raise SegmentationError(f"RLE lacks {' and '.join(missing)}")
    size = rle["size"]
    if not (isinstance(size, Sequence) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)):
        raise SegmentationError(f"RLE size must be [height, width], not {size!r}")
    if size[0] * size[1] > MAX_MASK_PIXELS:
        raise SegmentationError(f"RLE of {size[0]}x{size[1]} (HxW) is above the limit of {MAX_MASK_PIXELS} pixels")
    return size[0], size[1]


def _run_lengths(counts: Any) -> NDArray[np.int64]:
    """Return the run lengths of either form of RLE.

    The compressed string holds little-endian groups of 5 bits (character code minus 48, bit 32 = more follows, bit 16
    of the last = sign); from the fourth number on each is the difference to the number two places before.
    """
    if isinstance(counts, Sequence) and not isinstance(counts, (str, bytes)):
        if not all(isinstance(run, int) and 0 <= run <= MAX_MASK_PIXELS for run in counts):
            raise SegmentationError("uncompressed RLE counts must be whole numbers from 0 on, none above the limit")
        return np.asarray(counts, dtype=np.int64)
    if not isinstance(counts, (str, bytes)):
        raise SegmentationError(f"RLE counts must be a string or a list, not {type(counts).__name__}")
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError as error:
        raise SegmentationError("RLE counts hold a character that is not ASCII") from error
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        return codes
    last = codes & 32 == 0
    if codes.min() < 0 or codes.max() > 63 or not last[-1]:
        raise SegmentationError("RLE counts are cut off or hold a foreign character")
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    lengths = np.diff(np.append(starts, codes.size))
    if lengths.max() > 12:
        raise SegmentationError("RLE counts hold a number of more than 60 bits")
    place = np.arange(codes.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 31) << (5 * place), starts)
    numbers -= np.where(codes[last] & 16, np.left_shift(1, 5 * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def polygons_to_mask(polygons: Sequence[Sequence[float]], height: int, width: int) -> MaskArray:
    """Draw polygons (flat x, y, x, y, ... in original pixels) and unite them: bool [height, width].

    A pixel that several polygons cover is covered once.

    Raises:
        SegmentationError: no polygon, fewer than three points, an odd number of coordinates, a number that is not
            finite, or a point more than one image size outside.
    """
    if not polygons:
        raise SegmentationError("no polygon given")
    checked = [_checked_polygon(polygon, number, height, width) for number, polygon in enumerate(polygons)]
    return rle_decode(coco_mask.merge(coco_mask.frPyObjects(checked, height, width)))


def _checked_polygon(polygon: Sequence[float], number: int, height: int, width: int) -> list[float]:
    if isinstance(polygon, (str, bytes)) or not isinstance(polygon, Sequence | np.ndarray):
        raise SegmentationError(f"polygon {number} must be a list of coordinates, not {type(polygon).__name__}")
    try:
        points = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise SegmentationError(f"polygon {number} holds something that is not a number") from error
    if points.ndim != 1 or points.size % 2 or points.size < 6:
        raise SegmentationError(
            f"polygon {number} needs three points or more (x, y, x, y, ...), not {points.size} numbers"
        )
    limits = np.tile([width, height], points.size // 2)
    if not np.isfinite(points).all() or (points < -limits).any() or (points > 2 * limits).any():
        raise SegmentationError(f"polygon {number} leaves the image of {width}x{height} (WxH)")
    flat: list[float] = points.tolist()
    return flat


def segmentation_to_mask(segmentation: Any, height: int, width: int) -> MaskArray:
    """Turn a COCO segmentation into bool [height, width]: polygons, one RLE, or a list of RLEs (all united).

    Raises:
        SegmentationError: none of these forms, a malformed one, or an RLE of another size than the image.
    """
    codes: Any = [segmentation] if isinstance(segmentation, Mapping) else segmentation
    if isinstance(codes, (str, bytes)) or not isinstance(codes, Sequence) or len(codes) == 0:
        raise SegmentationError("segmentation must be a list of polygons, an RLE or a list of RLEs, and not empty")
    if not any(isinstance(code, Mapping) for code in codes):
        return polygons_to_mask(codes, height, width)
    if not all(isinstance(code, Mapping) for code in codes):
        raise SegmentationError("segmentation mixes polygons and RLEs")
    masks = [rle_decode(code) for code in codes]
    for mask in masks:
        if mask.shape != (height, width):
            raise SegmentationError(f"mask is {mask.shape[1]}x{mask.shape[0]} (WxH), but the image is {width}x{height}")
    united = masks[0]
    for mask in masks[1:]:
        united = united | mask
    return united
