from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ullava import geometry

SIDES = st.integers(1, 6000)
FRACTIONS = arrays(np.float64, (3, 4), elements=st.floats(0, 1))


def plan(kind: geometry.ViewKind, orig_wh: tuple[int, int], side: int) -> geometry.View:
    if kind != "canvas_tile":
        return geometry.plan_view(kind, orig_wh, side)
    return geometry.plan_view(kind, orig_wh, side, canvas_wh=(2 * side, 3 * side), tile_origin_xy=(side, 2 * side))


@pytest.mark.parametrize("kind", geometry.VIEW_KINDS)
@given(width=SIDES, height=SIDES, side=st.sampled_from([16, 224, 336, 768, 1024]), fractions=FRACTIONS)
def test_boxes_come_back_within_a_ten_thousandth_pixel(kind, width, height, side, fractions):
    boxes_xyxy_px = geometry.norm_to_px(fractions, (width, height))
    view = plan(kind, (width, height), side)
    boxes_view = view.to_view(boxes_xyxy_px)
    np.testing.assert_allclose(view.to_orig(boxes_view), boxes_xyxy_px, atol=1e-4)


@pytest.mark.parametrize("kind", ["pad_center", "pad_br", "stretch"])
@given(width=SIDES, height=SIDES, fractions=FRACTIONS)
def test_what_is_in_the_image_is_in_the_view(kind, width, height, fractions):
    view = plan(kind, (width, height), 224)
    inside = view.to_view(geometry.norm_to_px(fractions, (width, height)))
    assert inside.min() >= -1e-9
    assert inside.max() <= 224 + 1e-9


def test_formulas_by_hand():
    box = [100, 60, 300, 140]
    # 400 x 200 into 224: scale 0.56; the centerd square begins 100 pixels above the image.
    np.testing.assert_allclose(plan("pad_center", (400, 200), 224).to_view(box), [56, 89.6, 168, 134.4])
    np.testing.assert_allclose(plan("pad_br", (400, 200), 224).to_view(box), [56, 33.6, 168, 78.4])
    np.testing.assert_allclose(plan("stretch", (400, 200), 224).to_view(box), [56, 67.2, 168, 156.8])
    np.testing.assert_allclose(plan("short_side", (400, 200), 224).to_view(box), [112, 67.2, 336, 156.8])
    assert plan("short_side", (400, 200), 224).size_wh == (448, 224)
    assert plan("short_side", (53, 37), 224).size_wh == (320, 224), "CLIP rounds the long side down"


def test_sam_and_tower_frames_do_not_mix():
    center = [190, 90, 210, 110]
    sam = plan("pad_br", (400, 200), 224).to_view(center)
    tower = plan("pad_center", (400, 200), 224).to_view(center)
    assert abs(sam - tower).max() == pytest.approx(56)


def test_odd_difference_is_pasted_at_a_whole_pixel():
    # 5 x 2: three rows of padding, of which one lies above the image.
    assert plan("pad_center", (5, 2), 5).offset_xy == (0, 1)


def test_canvas_tile_subtracts_its_origin():
    # 300 x 100 into a canvas of 600 x 400: scale 2, 100 rows above; the tile begins at (300, 0).
    view = geometry.plan_view("canvas_tile", (300, 100), 300, canvas_wh=(600, 400), tile_origin_xy=(300, 0))
    np.testing.assert_allclose(view.to_view([0, 0, 300, 100]), [-300, 100, 300, 300])


def test_points_are_mapped_like_corners():
    view = plan("pad_center", (400, 200), 224)
    np.testing.assert_allclose(view.to_view([[100, 60]]), view.to_view([[100, 60, 300, 140]])[:, :2])


def test_crop_moves_the_origin():
    view = plan("short_side", (400, 200), 224).crop(112, 0, (224, 224))
    assert view.size_wh == (224, 224)
    np.testing.assert_allclose(view.to_view([200, 100]), [112, 112])


@pytest.mark.parametrize(
    ("orig_wh", "side", "expected_hw"),
    [((427, 320), 1024, (767, 1024)), ((301, 23), 128, (10, 128)), ((61, 143), 128, (128, 55)), ((9, 9), 28, (28, 28))],
)
def test_resized_size_follows_sam(orig_wh, side, expected_hw):
    assert geometry.resized_hw(geometry.plan_view("pad_br", orig_wh, side)) == expected_hw


def test_a_sliver_keeps_one_pixel():
    assert geometry.resized_hw(geometry.plan_view("pad_br", (5000, 1), 224)) == (1, 224)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="positive"):
        geometry.plan_view("pad_br", (0, 5), 224)
    with pytest.raises(ValueError, match="canvas_wh"):
        geometry.plan_view("canvas_tile", (5, 5), 224)
    with pytest.raises(ValueError, match="canvas_wh"):
        geometry.plan_view("stretch", (5, 5), 224, canvas_wh=(224, 224))
    with pytest.raises(ValueError, match="known: pad_center"):
        geometry.plan_view("crop", (5, 5), 224)
