from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ullava.geometry import SegmentationError, VideoMasks, rle_area, rle_encode, united

CLIPS = arrays(np.bool_, array_shapes(min_dims=3, max_dims=3, max_side=7))


def dense(masks: VideoMasks) -> np.ndarray:
    return np.stack([masks.mask(frame) for frame in range(len(masks))])


@given(clip=CLIPS)
def test_masks_come_back_whole_and_through_json(clip):
    masks = VideoMasks.from_masks(clip, clip.shape[1:])
    assert (dense(masks) == clip).all()
    again = VideoMasks.from_json(json.loads(json.dumps(masks.to_json())))
    assert again == masks
    assert [masks.area_px(frame) for frame in range(len(masks))] == clip.sum(axis=(1, 2)).tolist()
    for frame, mask in enumerate(masks):
        assert (mask is None) == (not clip[frame].any())
        assert mask is None or (mask == clip[frame]).all()
    assert masks.is_absent == (not clip.any())


@given(clip=CLIPS, other=st.randoms(use_true_random=False))
def test_a_union_has_the_pixels_of_every_object(clip, other):
    second = np.array([other.random() < 0.3 for _ in range(clip.size)]).reshape(clip.shape)
    size = clip.shape[1:]
    both = united([VideoMasks.from_masks(clip, size), VideoMasks.from_masks(second, size)])
    assert (dense(both) == (clip | second)).all()


def test_unannotated_is_not_absent():
    mask = np.eye(3, dtype=bool)
    first = VideoMasks.from_masks([mask, None, None, mask], (3, 3), unannotated=[1])
    assert first.counts[1] is None and first.counts[2] is None and first.unannotated == {1}
    assert first.to_json()["unannotated"] == [1]
    assert VideoMasks.from_json(first.to_json()) == first
    second = VideoMasks.from_masks([mask, mask, mask, None], (3, 3), unannotated=[])
    assert united([first, second]).unannotated == {1}
    assert united([first, second]).counts[1] is None


def test_codes_that_are_not_compressed_become_compressed_ones():
    masks = VideoMasks.from_rles([{"size": [2, 2], "counts": [1, 2, 1]}, {"size": [2, 2], "counts": [4]}], (2, 2))
    assert masks.mask(0).tolist() == [[False, True], [True, False]]
    assert isinstance(masks.counts[0], str) and masks.counts[1] is None


def test_area_needs_no_decoding_and_checks_the_code():
    mask = np.zeros((4, 5), dtype=bool)
    mask[1:3, 2:] = True
    assert rle_area(rle_encode(mask)) == 6
    with pytest.raises(SegmentationError, match="add up to 3 pixels, but its size is 2x2"):
        rle_area({"size": [2, 2], "counts": [1, 2]})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "have to be an object with size and counts"),
        ({"size": [2, 2]}, "no 'counts'"),
        ({"size": [2, 2], "count": [None]}, "unknown key 'count'; did you mean 'counts'"),
        ({"size": [0, 2], "counts": [None]}, "'size' has to be"),
        ({"size": [2, True], "counts": [None]}, "'size' has to be"),
        ({"size": [2, 2], "counts": "04"}, "'counts' has to be a list"),
        ({"size": [2, 2], "counts": []}, "one frame or more"),
        ({"size": [2, 2], "counts": [None, "0"]}, "frame 1: RLE runs add up to 0"),
        ({"size": [2, 2], "counts": [None, 5]}, "frame 1: RLE counts must be a string or a list"),
        ({"size": [2, 2], "counts": [None], "unannotated": [1]}, "unannotated frame 1: the clip has frames 0 to 0"),
        ({"size": [2, 2], "counts": [[0, 4]], "unannotated": [0]}, "unannotated frame 0 has a mask"),
        ({"size": [2, 2], "counts": [None], "unannotated": "0"}, "'unannotated' has to be a list"),
        ({"size": [20_000, 20_000], "counts": [None]}, "have no pixel, or more than"),
    ],
)
def test_what_is_wrong_is_named(value, message):
    with pytest.raises(SegmentationError, match=message.replace("[", r"\[")):
        VideoMasks.from_json(value)


def test_masks_of_another_size_or_kind_are_refused():
    with pytest.raises(SegmentationError, match="frame 1: a mask has to be bool"):
        VideoMasks.from_masks([None, np.zeros((2, 3), dtype=bool)], (3, 2))
    with pytest.raises(SegmentationError, match="frame 0: a mask has to be bool"):
        VideoMasks.from_masks(np.zeros((1, 2, 3), dtype=np.uint8), (2, 3))
    with pytest.raises(SegmentationError, match=r"frame 0: RLE is 3x2 \(WxH\), the clip 2x3"):
        VideoMasks.from_rles([{"size": [2, 3], "counts": [6]}], (3, 2))


def test_objects_of_different_clips_are_not_united():
    with pytest.raises(SegmentationError, match=r"2 frames of 3x2 \(WxH\) and 1 frames of 3x2"):
        united([VideoMasks.absent((2, 3), 2), VideoMasks.absent((2, 3), 1)])
    with pytest.raises(SegmentationError, match="no masks to unite"):
        united([])
