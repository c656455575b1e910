from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from ullava import geometry
from ullava.errors import DataError

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12))


def uncompressed_counts(mask: np.ndarray) -> list[int]:
    """Run lengths in column order, counted one pixel at a time."""
    runs, value = [0], False
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@given(mask=MASKS)
def test_rle_comes_back_in_both_forms(mask):
    rle = geometry.rle_encode(mask)
    assert isinstance(rle["counts"], str)
    np.testing.assert_array_equal(geometry.rle_decode(rle), mask)
    np.testing.assert_array_equal(
        geometry.rle_decode({"size": list(mask.shape), "counts": uncompressed_counts(mask)}), mask
    )


@given(mask=MASKS)
def test_rle_agrees_with_pycocotools(mask):
    theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    np.testing.assert_array_equal(geometry.rle_decode(theirs), mask)
    np.testing.assert_array_equal(coco_mask.decode(geometry.rle_encode(mask)), mask)


def test_long_runs_survive():
    mask = np.zeros((700, 900), dtype=np.bool_)
    mask[3:650, 5:890] = True
    mask[200:300, 400:500] = False
    np.testing.assert_array_equal(geometry.rle_decode(geometry.rle_encode(mask)), mask)


@given(mask=MASKS)
def test_polygons_draw_the_same_mask_again(mask):
    holes, _ = cv2.connectedComponents(np.pad(~mask, 1, constant_values=True).astype(np.uint8), connectivity=8)
    if holes > 2:
        with pytest.raises(geometry.SegmentationError, match="hole"):
            geometry.mask_to_polygons(mask)
        return
    polygons = geometry.mask_to_polygons(mask)
    if not mask.any():
        assert polygons == []
        return
    np.testing.assert_array_equal(geometry.polygons_to_mask(polygons, *mask.shape), mask)


def test_outline_of_a_rectangle_has_four_corners():
    mask = np.zeros((6, 8), dtype=np.bool_)
    mask[1:4, 2:7] = True
    (ring,) = geometry.mask_outlines(mask)
    assert {tuple(point) for point in ring.tolist()} == {(2, 1), (7, 1), (7, 4), (2, 4)}


def test_outlines_of_a_ring_are_two():
    mask = np.ones((5, 5), dtype=np.bool_)
    mask[2, 2] = False
    assert sorted(len(ring) for ring in geometry.mask_outlines(mask)) == [4, 4]


def test_polygons_are_united_not_added():
    left, right = [0, 0, 6, 0, 6, 4, 0, 4], [4, 0, 10, 0, 10, 4, 4, 4]
    mask = geometry.polygons_to_mask([left, right], 5, 12)
    assert mask.dtype == np.bool_
    assert mask.sum() == 40
    alone = geometry.polygons_to_mask([left], 5, 12) | geometry.polygons_to_mask([right], 5, 12)
    np.testing.assert_array_equal(mask, alone)


def test_polygon_of_four_numbers_is_not_taken_for_a_box():
    with pytest.raises(geometry.SegmentationError, match="three points"):
        geometry.polygons_to_mask([[0, 0, 4, 4]], 8, 8)


def test_box_is_half_open():
    mask = np.zeros((10, 12), dtype=np.bool_)
    mask[2:5, 3:9] = True
    assert geometry.mask_to_box_xyxy_px(mask) == (3, 2, 9, 5)
    assert geometry.mask_to_box_xyxy_px(np.ones((10, 12), dtype=np.bool_)) == (0, 0, 12, 10)
    assert geometry.mask_to_box_xyxy_px(np.zeros((10, 12), dtype=np.bool_)) is None


@given(mask=MASKS.filter(lambda mask: mask.any()))
def test_box_is_the_tightest_and_agrees_with_pycocotools(mask):
    box = geometry.mask_to_box_xyxy_px(mask)
    assert box is not None
    left, top, right, bottom = (int(side) for side in box)
    assert mask[top:bottom, left:right].sum() == mask.sum()
    assert all(edge.any() for edge in (mask[top], mask[bottom - 1], mask[:, left], mask[:, right - 1]))
    np.testing.assert_array_equal(geometry.xyxy_to_xywh(box), coco_mask.toBbox(geometry.rle_encode(mask)))


def test_mask_iou_by_hand():
    a, b = np.zeros((2, 4), dtype=np.bool_), np.zeros((2, 4), dtype=np.bool_)
    assert geometry.mask_iou(a, b) == 1
    a[:, :2] = True
    assert geometry.mask_iou(a, b) == 0
    b[:, 1:3] = True
    assert geometry.mask_iou(a, b) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="size"):
        geometry.mask_iou(a, b.T)


def test_segmentation_takes_all_three_forms():
    mask = np.zeros((6, 8), dtype=np.bool_)
    mask[1:4, 2:7] = True
    rle = geometry.rle_encode(mask)
    other = geometry.rle_encode(~mask)
    polygon = [2, 1, 7, 1, 7, 4, 2, 4]
    for form in ([polygon], [polygon, polygon], rle, [rle], {"size": [6, 8], "counts": uncompressed_counts(mask)}):
        np.testing.assert_array_equal(geometry.segmentation_to_mask(form, 6, 8), mask)
    assert geometry.segmentation_to_mask([rle, other], 6, 8).all()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "not empty"),
        ("polygon", "list of polygons"),
        (7, "list of polygons"),
        ([[1, 2, 3]], "three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "three points"),
        ([[1, 2, 3, 4, 5, float("nan")]], "leaves the image"),
        ([[1, 2, 3, 4, 5, 1e9]], "leaves the image"),
        ([["a", "b", "c", "d", "e", "f"]], "not a number"),
        ([3], "list of coordinates"),
        ({"size": [6, 8]}, "lacks counts"),
        ({"counts": [48]}, "lacks size"),
        ({"size": [6, -8], "counts": [48]}, "height, width"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "above the limit"),
        ({"size": [6, 8], "counts": [40]}, "add up to 40"),
        ({"size": [6, 8], "counts": [50, -2]}, "from 0 on"),
        ({"size": [6, 8], "counts": [2**80]}, "above the limit"),
        ({"size": [6, 8], "counts": 48}, "a string or a list"),
        ({"size": [6, 8], "counts": ""}, "add up to 0"),
        ({"size": [6, 8], "counts": "P"}, "cut off"),
        ({"size": [6, 8], "counts": "\u00e9"}, "ASCII"),
        ({"size": [6, 8], "counts": "o" * 20 + "0"}, "60 bits"),
        ({"size": [8, 6], "counts": [48]}, "6x8 .*8x6"),
        ([{"size": [6, 8], "counts": [48]}, [1, 2, 3, 4, 5, 6]], "mixes"),
    ],
)
def test_malformed_segmentations_are_refused_by_name(segmentation, message):
    with pytest.raises(geometry.SegmentationError, match=message) as caught:
        geometry.segmentation_to_mask(segmentation, 6, 8)
    assert isinstance(caught.value, DataError)


@given(text=st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=30))
def test_any_string_is_decoded_or_refused(text):
    try:
        mask = geometry.rle_decode({"size": [5, 7], "counts": text})
    except geometry.SegmentationError:
        return
    assert mask.shape == (5, 7)
    np.testing.assert_array_equal(geometry.rle_decode(geometry.rle_encode(mask)), mask)
