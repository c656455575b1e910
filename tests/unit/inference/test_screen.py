"""Overlays of large photographs are of a screen's size, with masks and boxes where they are in the photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ullava.errors import DataError
from ullava.inference.batch import Question, check_images
from ullava.inference.overlay import draw_overlay
from ullava.inference.screen import SCREEN_SIDE, screen_overlay
from ullava.media.images import read_image_rgb_u8, read_preview_rgb_u8
from ullava.structures import GroundedObject

SIDEWAYS = 6
"""An EXIF orientation that exchanges width and height."""


def photo(path: Path, size_wh: tuple[int, int], orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    shades = np.linspace(0, 255, size_wh[0] * size_wh[1], dtype=np.uint8).reshape(size_wh[::-1])
    Image.fromarray(shades).convert("RGB").save(path, exif=exif)
    return path


def thing(hw: tuple[int, int], rows: slice, columns: slice) -> GroundedObject:
    mask = np.zeros(hw, bool)
    mask[rows, columns] = True
    box = float(columns.start), float(rows.start), float(columns.stop), float(rows.stop)
    return GroundedObject("thing", (0, 5), mask, box, 0.9)


@pytest.mark.parametrize("name", ["large.jpg", "large.png"])
def test_a_large_photograph_is_drawn_small_and_in_place(tmp_path: Path, name: str) -> None:
    path = photo(tmp_path / name, (4096, 6144), SIDEWAYS)  # upright: 6144 wide, 4096 high
    item = thing((4096, 6144), slice(3000, 3600), slice(600, 1800))
    drawn = screen_overlay(path, [item]).astype(int)
    assert drawn.shape == (1365, SCREEN_SIDE, 3)
    plain = screen_overlay(path, []).astype(int)
    changed = np.abs(drawn - plain).max(axis=2) > 8
    assert changed[1010:1190, 210:590].mean() > 0.99  # the object, a third of the size
    assert not changed[:800].any() and not changed[:, 800:].any()


def test_a_smaller_one_is_drawn_as_it_is(tmp_path: Path) -> None:
    path = photo(tmp_path / "small.jpg", (700, 500))
    item = thing((500, 700), slice(100, 300), slice(50, 400))
    assert np.array_equal(screen_overlay(path, [item]), draw_overlay(read_image_rgb_u8(path), [item]))
    array = read_image_rgb_u8(path)
    assert np.array_equal(screen_overlay(array, [item], side=350), screen_overlay(Image.fromarray(array), [item], 350))


def test_a_speck_is_still_seen(tmp_path: Path) -> None:
    path = photo(tmp_path / "large.jpg", (6000, 4000))
    item = thing((4000, 6000), slice(2000, 2001), slice(3000, 3001))
    assert (screen_overlay(path, [item]) != screen_overlay(path, [])).any()
    with pytest.raises(ValueError, match="a mask is"):
        screen_overlay(path, [thing((400, 600), slice(0, 9), slice(0, 9))])


def test_a_preview_knows_the_whole_and_misses_nothing_that_is_cut_off(tmp_path: Path) -> None:
    path = photo(tmp_path / "large.jpg", (1600, 1200), SIDEWAYS)
    pixels, whole_hw = read_preview_rgb_u8(path, 300)
    assert (pixels.shape, whole_hw) == ((400, 300, 3), (1600, 1200))
    assert check_images([Question("a", (path,), "What?")]) == {path: (1600, 1200)}
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(DataError, match=r"large\.jpg"):
        check_images([Question("a", (path,), "What?")])
