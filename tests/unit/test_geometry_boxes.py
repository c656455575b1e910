from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ullava import geometry

SIDES = st.integers(1, 4000)
BOXES = arrays(np.float64, st.tuples(st.integers(0, 5), st.just(4)), elements=st.floats(-5000, 5000, width=32))
ROUND_TRIPS = [
    (geometry.xywh_to_xyxy, geometry.xyxy_to_xywh),
]
FRAMES = [(geometry.px_to_norm, geometry.norm_to_px), (geometry.px_to_padsq, geometry.padsq_to_px)]


@pytest.mark.parametrize(("there", "back"), ROUND_TRIPS)
@given(boxes=BOXES)
def test_forms_of_boxes_are_inverse(there, back, boxes):
    np.testing.assert_allclose(back(there(boxes)), boxes, atol=1e-9)
    np.testing.assert_allclose(there(back(boxes)), boxes, atol=1e-9)


@pytest.mark.parametrize(("there", "back"), FRAMES)
@given(boxes=BOXES, width=SIDES, height=SIDES)
def test_frames_of_boxes_are_inverse(there, back, boxes, width, height):
    np.testing.assert_allclose(back(there(boxes, (width, height)), (width, height)), boxes, atol=1e-6)


def test_forms_by_hand():
    np.testing.assert_array_equal(geometry.xywh_to_xyxy([10, 20, 30, 40]), [10, 20, 40, 60])


def test_padded_square_by_hand():
    # 200 x 100: the square is 200 wide, the image lies 50 below its upper edge.
    np.testing.assert_allclose(geometry.px_to_padsq([0, 0, 200, 100], (200, 100)), [0, 0.25, 1, 0.75])
    np.testing.assert_allclose(geometry.padsq_to_px([0.1, 0.2, 0.3, 0.4], (200, 100)), [20, -10, 60, 30])
    # An odd difference leaves a margin of half a pixel more than the pasted image has.
    np.testing.assert_allclose(geometry.px_to_padsq([0, 0, 5, 2], (5, 2)), [0, 0.3, 1, 0.7])


def test_no_boxes_stay_no_boxes():
    assert geometry.px_to_norm([], (4, 4)).shape == (0, 4)
    assert geometry.box_iou([], [[0, 0, 1, 1]]).shape == (0, 1)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\[\.\.\., 4\]"):
        geometry.px_to_norm([[1, 2, 3]], (4, 4))


def test_iou_by_hand():
    iou = geometry.box_iou([[0, 0, 10, 10], [0, 0, 0, 0]], [[5, 0, 15, 10], [0, 0, 10, 10], [20, 20, 30, 30]])
    np.testing.assert_allclose(iou, [[1 / 3, 1, 0], [0, 0, 0]])


@given(first=BOXES, second=BOXES)
def test_iou_is_symmetric_and_bounded(first, second):
    first, second = geometry.sort_corners(first), geometry.sort_corners(second)
    iou = geometry.box_iou(first, second)
    assert iou.shape == (len(first), len(second))
    assert ((iou >= 0) & (iou <= 1 + 1e-9)).all()
    np.testing.assert_allclose(iou, geometry.box_iou(second, first).T)


def test_inverted_boxes_have_no_area_and_can_be_sorted():
    assert geometry.box_area([5, 5, 2, 9]) == 0
    np.testing.assert_array_equal(geometry.sort_corners([5, 9, 2, 4]), [2, 4, 5, 9])


def test_clipping_keeps_what_is_inside():
    np.testing.assert_array_equal(
        geometry.clip_boxes_px([[-5, 3, 99, 8], [50, 50, 60, 60]], (20, 10)), [[0, 3, 20, 8], [20, 10, 20, 10]]
    )
