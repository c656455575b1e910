"""J, F and what is made of them, against a slow program that follows the published definitions word by word."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ullava.evaluation.metrics.boundaries import boundary, boundary_f, tolerance_px
from ullava.evaluation.metrics.rows import CLASS, GROUPS
from ullava.evaluation.metrics.video import VideoReferringMasks, statistics
from ullava.geometry import VideoMasks


@cache
def outline_of(shape: tuple[int, int], pixels: bytes) -> set[tuple[int, int]]:
    return slow_outline(np.frombuffer(pixels, dtype=bool).reshape(shape))


def naive_boundary(mask: np.ndarray) -> set[tuple[int, int]]:
    """The outline of a mask, found once for each."""
    return outline_of(mask.shape, mask.tobytes())


def slow_outline(mask: np.ndarray) -> set[tuple[int, int]]:
    """Pixels that differ from a neighbor to the east, south or south-east; the last row looks east, the last column
    south, the last corner nowhere.
    """
    height, width = mask.shape
    found = set()
    for y in range(height):
        for x in range(width):
            around = []
            if y == height - 1 and x == width - 1:
                continue
            if y == height - 1:
                around = [(y, x + 1)]
            elif x == width - 1:
                around = [(y + 1, x)]
            else:
                around = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if any(mask[y, x] != mask[place] for place in around):
                found.add((y, x))
    return found


def naive_f(said: np.ndarray, true: np.ndarray) -> float:
    """Every pixel of one outline compared with every pixel of the other."""
    one, other = naive_boundary(said), naive_boundary(true)
    if not one and not other:
        return 1.0
    if not one or not other:
        return 0.0
    reach = math.ceil(0.008 * math.sqrt(said.shape[0] ** 2 + said.shape[1] ** 2))
    places, others = np.array(sorted(one)), np.array(sorted(other))
    near = ((places[:, None] - others[None]) ** 2).sum(axis=-1) <= reach**2
    precision, recall = near.any(axis=1).mean(), near.any(axis=0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def naive_j(said: np.ndarray, true: np.ndarray) -> float:
    both = sum(bool(a and b) for a, b in zip(said.flat, true.flat, strict=True))
    either = sum(bool(a or b) for a, b in zip(said.flat, true.flat, strict=True))
    return both / either if either else 1.0


def blobs(seed: int, count: int, size: tuple[int, int]) -> np.ndarray:
    """Rectangles, thin lines and specks, some over the border, some frames empty or full."""
    rng = np.random.default_rng(seed)
    frames = np.zeros((count, *size), dtype=bool)
    for frame in frames:
        kind = rng.integers(6)
        if kind == 0:
            continue
        if kind == 1:
            frame[:] = True
            continue
        for _ in range(int(rng.integers(1, 4))):
            y, x = rng.integers(size[0]), rng.integers(size[1])
            frame[y : y + rng.integers(1, size[0]), x : x + rng.integers(1, size[1])] ^= True
    return frames


@pytest.mark.parametrize("size", [(24, 31), (60, 17), (100, 80)])
def test_outlines_and_f_are_those_of_the_slow_program(size: tuple[int, int]) -> None:
    frames = blobs(size[0], 14 if size[0] < 100 else 6, size)
    apart = set()
    for said, true in zip(frames, np.roll(frames, 1, axis=0), strict=True):
        rows, columns = np.nonzero(boundary(said))
        assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == naive_boundary(said)
        assert boundary_f(said, true) == pytest.approx(naive_f(said, true), abs=1e-12)
        apart.add(round(naive_f(said, true), 3))
    assert len(apart) > 3


def test_the_tolerance_is_a_disk_of_eight_thousandths_of_the_diagonal() -> None:
    assert tolerance_px((480, 854)) == 8 and tolerance_px((1080, 1920)) == 18 and tolerance_px((10, 10)) == 1
    size = (480, 854)
    true = np.zeros(size, dtype=bool)
    true[200:300, 200:300] = True
    for shift, met in (((8, 0), True), ((9, 0), False)):
        said = np.roll(true, shift, axis=(0, 1))
        assert (boundary_f(said, true) == pytest.approx(1.0)) == met
    speck, other = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    speck[100, 100] = True
    other[106, 106] = True  # 6 down and 6 right are 8.5 pixels: outside a disk, inside a square
    assert 0 < boundary_f(speck, other) < 1
    other = np.roll(other, (-1, -1), axis=(0, 1))
    assert boundary_f(speck, other) == 1


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=300))
def test_recall_and_decay_are_those_of_davis(values: list[float]) -> None:
    mean, recall, decay = statistics(values)
    count = len(values)
    cuts = [math.floor(1 + (count - 1) * part / 4 + 0.5 + 1e-10) for part in range(5)]
    first, last = values[cuts[0] - 1 : cuts[1]], values[cuts[3] - 1 : cuts[4]]
    assert mean == pytest.approx(sum(values) / count)
    assert recall == sum(value > 0.5 for value in values) / count
    assert decay == pytest.approx(sum(first) / len(first) - sum(last) / len(last))


def clip_of(frames: np.ndarray, **more: object) -> VideoMasks:
    return VideoMasks.from_masks(frames, frames.shape[1:], **more)  # type: ignore[arg-type]


def test_an_expression_is_the_mean_over_its_annotated_frames() -> None:
    said, true = blobs(5, 12, (20, 26)), blobs(6, 12, (20, 26))
    metric = VideoReferringMasks()
    row = metric.update(clip_of(said), clip_of(true))
    assert row["J"] == pytest.approx(np.mean([naive_j(a, b) for a, b in zip(said, true, strict=True)]))
    assert row["F"] == pytest.approx(np.mean([naive_f(a, b) for a, b in zip(said, true, strict=True)]))
    unseen = [0, 4, 5]
    true[unseen] = False
    kept = [frame for frame in range(12) if frame not in unseen]
    row = metric.update(clip_of(said), clip_of(true, unannotated=unseen))
    assert row["frames"] == 9
    assert row["J"] == pytest.approx(np.mean([naive_j(said[frame], true[frame]) for frame in kept]))


def test_ignored_pixels_count_for_neither_side() -> None:
    said, true, ignore = blobs(1, 9, (20, 26)), blobs(2, 9, (20, 26)), blobs(3, 9, (20, 26))
    row = VideoReferringMasks().update(clip_of(said), clip_of(true), clip_of(ignore))
    pairs = [(a & ~c, b & ~c) for a, b, c in zip(said, true, ignore, strict=True)]
    assert row["J"] == pytest.approx(np.mean([naive_j(*pair) for pair in pairs]))
    assert row["F"] == pytest.approx(np.mean([naive_f(*pair) for pair in pairs]))


def test_nothing_against_nothing_is_right_and_something_is_not() -> None:
    nothing, something = VideoMasks.absent((8, 9), 3), clip_of(blobs(8, 3, (8, 9)) | np.eye(8, 9, dtype=bool))
    metric = VideoReferringMasks()
    assert metric.update(None, nothing)["J"] == 1 and metric.update(nothing, nothing)["F"] == 1
    assert metric.update(something, nothing)["J"] == 0
    assert metric.update(something, something)["J"] == 1
    assert metric.update(None, something)["F"] == 0
    figures = metric.compute()
    assert figures["N-acc"] == pytest.approx(200 / 3) and figures["T-acc"] == 50
    assert figures["J&F"] == pytest.approx((figures["J"] + figures["F"]) / 2)
    assert figures["J"] == pytest.approx(60)
    assert VideoReferringMasks(metric.state()).compute() == figures and VideoReferringMasks().compute() == {}


def test_means_are_of_the_classes_where_rows_name_them() -> None:
    truth = clip_of(np.broadcast_to(np.eye(8, 9, dtype=bool), (2, 8, 9)))
    metric = VideoReferringMasks()
    for said, named in ((truth, "a"), (truth, "a"), (truth, "a"), (None, "b"), (None, "")):
        row = metric.update(said, truth)
        row |= {CLASS: named, GROUPS: [named]} if named else {}
    assert metric.compute()["J"] == 50
    assert metric.details()["a J&F"] == 100 and metric.details()["b J&F"] == 0


def test_what_cannot_be_compared_is_refused() -> None:
    truth = VideoMasks.absent((8, 9), 3)
    with pytest.raises(ValueError, match="2 frames of 9 x 8 pixels against 3 of 9 x 8"):
        VideoReferringMasks().update(VideoMasks.absent((8, 9), 2), truth)
    with pytest.raises(ValueError, match="no frame of the truth is annotated"):
        VideoReferringMasks().update(None, VideoMasks.from_rles([None], (8, 9), unannotated=[0]))
