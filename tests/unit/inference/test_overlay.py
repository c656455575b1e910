"""Overlay images: what is drawn, where labels go, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ullava.inference.labels import make_label, overlap_of_labels, place_labels
from ullava.inference.overlay import PALETTE, color_places, draw_overlay, enlarge_mask
from ullava.structures import GroundedObject, MaskArray


def disc(height: int, width: int, row: float, column: float, radius: float) -> MaskArray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def thing(mask: MaskArray | None, phrase: str = "red circle", box: tuple[float, ...] | None = None) -> GroundedObject:
    return GroundedObject(phrase, (0, 4), mask, box, 0.87)  # type: ignore[arg-type]


@pytest.mark.parametrize(("height", "width", "factor"), [(96, 128, 4), (480, 640, 1)])
def test_a_small_image_is_enlarged_and_the_input_is_left_alone(height: int, width: int, factor: int) -> None:
    image = np.full((height, width, 3), 120, np.uint8)
    drawn = draw_overlay(image, [thing(disc(height, width, 40, 60, 15))])
    assert drawn.shape == (height * factor, width * factor, 3)
    assert drawn.dtype == np.uint8
    assert (image == 120).all()


def test_a_photo_keeps_its_size_unless_told() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    assert draw_overlay(image, []).shape == (480, 640, 3)
    assert draw_overlay(image, [], scale=2).shape == (960, 1280, 3)


def test_no_objects_draw_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    assert np.array_equal(draw_overlay(image, []), image)


def test_the_mask_is_tinted_towards_its_color_and_the_rest_is_not() -> None:
    image = np.full((480, 640, 3), 100, np.uint8)
    mask = disc(480, 640, 240, 320, 100)
    drawn = draw_overlay(image, [thing(mask)]).astype(int)
    inside = drawn[240, 320] - 100
    expected = np.asarray(PALETTE[0]) - 100
    assert (np.sign(inside) == np.sign(expected)).all()
    assert (drawn[470, 630] == 100).all()


def test_the_box_is_drawn_on_its_half_open_edges() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    drawn = draw_overlay(image, [thing(None, box=(100.0, 200.0, 301.0, 402.0))])
    assert tuple(drawn[300, 100]) == PALETTE[0]
    assert tuple(drawn[300, 300]) == PALETTE[0]
    assert tuple(drawn[401, 200]) == PALETTE[0]
    assert (drawn[300, 310] == 0).all()


def test_objects_get_different_colors() -> None:
    image = np.full((200, 640, 3), 128, np.uint8)
    masks = [disc(200, 640, 100, 90 + 130 * k, 40) for k in range(4)]
    drawn = draw_overlay(image, [thing(mask, "x") for mask in masks])
    assert len({tuple(drawn[100, 90 + 130 * k]) for k in range(4)}) == 4


@pytest.mark.parametrize(
    "box", [(-50.0, -20.0, 900.0, 700.0), (639.5, 479.5, 640.0, 480.0), (300.0, 200.0, 100.0, 90.0)]
)
def test_boxes_beyond_the_image_or_inverted_are_drawn_inside_it(box: tuple[float, ...]) -> None:
    drawn = draw_overlay(np.zeros((480, 640, 3), np.uint8), [thing(None, box=box)])
    assert drawn.any()


def test_an_empty_mask_and_an_object_without_place_still_get_a_label() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    assert draw_overlay(image, [thing(np.zeros((480, 640), bool))]).any()
    assert draw_overlay(image, [thing(None)]).any()


def test_what_cannot_be_drawn_is_refused() -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="uint8"):
        draw_overlay(image.astype(np.float32), [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="red circle"):
        draw_overlay(image, [thing(np.zeros((64, 48), bool))])
    with pytest.raises(ValueError, match="scale"):
        draw_overlay(image, [], scale=0)


def test_enlarging_a_mask_keeps_its_area_and_never_loses_a_speck() -> None:
    mask = disc(64, 64, 30, 33, 14)
    assert enlarge_mask(mask, 4).sum() == pytest.approx(16 * mask.sum(), rel=0.02)
    speck = np.zeros((64, 64), bool)
    speck[10, 20] = True
    assert enlarge_mask(speck, 4).sum() == 16


@pytest.mark.parametrize("seed", range(6))
def test_labels_stay_inside_the_image_and_off_each_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    anchors = []
    for _ in range(8):
        x, y, side = (int(value) for value in rng.integers([0, 0, 20], [400, 250, 110]))
        anchors.append((x, y, min(x + side, 480), min(y + side, 320)))
    sizes = [(int(rng.integers(60, 180)), 22) for _ in anchors]
    places = place_labels(sizes, anchors, [None] * 8, (480, 320))
    assert overlap_of_labels(places) == 0
    for (x0, y0, x1, y1), (wide, high) in zip(places, sizes, strict=True):
        assert 0 <= x0 and 0 <= y0 and x1 <= 480 and y1 <= 320
        assert (x1 - x0, y1 - y0) == (wide, high)


def test_a_label_avoids_the_other_object_where_there_is_room() -> None:
    other = np.zeros((300, 480), bool)
    other[20:98, 100:400] = True
    own = np.zeros((300, 480), bool)
    own[104:160, 200:260] = True
    place = place_labels([(90, 22), (90, 22)], [(200, 104, 260, 160), (100, 20, 400, 98)], [own, other], (480, 300))[0]
    assert not other[place[1] : place[3], place[0] : place[2]].any()
    assert not own[place[1] : place[3], place[0] : place[2]].any()


def test_a_label_larger_than_the_image_is_cut_to_it() -> None:
    assert place_labels([(90, 22)], [(0, 0, 10, 10)], [None], (40, 10)) == [(0, 0, 40, 10)]


def test_long_phrases_are_broken_and_cut_but_the_score_stays() -> None:
    short = make_label("circle", "0.91", 14, 200)
    assert short.lines == ("circle 0.91",)
    long = make_label("the small red circle left of the large blue square " * 4, "0.91", 14, 200)
    assert len(long.lines) == 3
    assert long.lines[-1].endswith("... 0.91")
    assert long.size_wh[0] <= 200
    assert make_label("antidisestablishmentarianism" * 3, "0.50", 14, 120).size_wh[0] <= 130
    assert make_label("", "0.50", 14, 120).lines == ("0.50",)


def test_things_of_one_phrase_have_one_color() -> None:
    assert color_places([0, 0, 1, None, None, 1]) == [0, 0, 1, 2, 3, 1]
    assert color_places([None] * (len(PALETTE) + 1)) == [*range(len(PALETTE)), 0]
    image = np.full((480, 640, 3), 90, np.uint8)
    pair = [replace(thing(disc(480, 640, 240, x, 60)), group=4) for x in (160, 480)]
    drawn = draw_overlay(image, pair).astype(int)
    assert (drawn[240, 160] == drawn[240, 480]).all()
    drawn = draw_overlay(image, [replace(item, group=None) for item in pair]).astype(int)
    assert (drawn[240, 160] != drawn[240, 480]).any()
