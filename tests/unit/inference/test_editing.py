"""Editing by masks: what may change does, everything else stays to the pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ullava.errors import UserError
from ullava.inference.editing import blur, cut_out, erase, replace_background
from ullava.structures import ImageArray, MaskArray

EDITS: dict[str, Callable[[Any, Any], Any]] = {
    "cut_out": cut_out,
    "blur": lambda image, mask: blur(image, mask, 3),
    "around": lambda image, mask: blur(image, mask, 3, around=True),
    "replace_background": replace_background,
    "erase": erase,
}


@pytest.fixture
def scene() -> tuple[ImageArray, MaskArray]:
    """A red square on green, 40 x 60; the square is the mask."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[..., 1] = 200
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:45] = True
    image[mask] = (255, 0, 0)
    return image, mask


@pytest.mark.parametrize("name", EDITS)
def test_nothing_is_changed_in_place(scene: tuple[ImageArray, MaskArray], name: str) -> None:
    image, mask = scene
    before = image.copy(), mask.copy()
    result = EDITS[name](image, mask)
    assert result.dtype == np.uint8 and result.ndim == 3 and not np.shares_memory(result, image)
    assert np.array_equal(image, before[0]) and np.array_equal(mask, before[1])


@pytest.mark.parametrize("name", EDITS)
def test_masks_that_do_not_fit_are_refused(scene: tuple[ImageArray, MaskArray], name: str) -> None:
    image, mask = scene
    with pytest.raises(UserError, match="the mask is empty"):
        EDITS[name](image, np.zeros_like(mask))
    with pytest.raises(ValueError, match=r"must be bool \[40, 60\], not bool \[39, 60\]"):
        EDITS[name](image, mask[1:])
    with pytest.raises(ValueError, match="not uint8"):
        EDITS[name](image, mask.astype(np.uint8))
    with pytest.raises(ValueError, match=r"an image must be uint8 \[H, W, 3\]"):
        EDITS[name](image[..., 0], mask)


def test_a_thing_is_cut_out_to_its_box(scene: tuple[ImageArray, MaskArray]) -> None:
    image, mask = scene
    alone = cut_out(image, mask)
    assert alone.shape == (10, 15, 4) and (alone == (255, 0, 0, 255)).all()
    whole = cut_out(image, mask, crop=False)
    assert np.array_equal(whole[..., :3], image) and np.array_equal(whole[..., 3] == 255, mask)
    soft = cut_out(image, mask, soft_px=2, crop=False)[..., 3]
    assert len(np.unique(soft)) > 10 and soft[15, 37] > 240 and soft[0, 0] == 0
    with pytest.raises(ValueError, match="soft_px must be 0 or more"):
        cut_out(image, mask, soft_px=-1)


def test_blur_stays_on_its_side_of_the_edge(scene: tuple[ImageArray, MaskArray]) -> None:
    image, mask = scene
    rng = np.random.default_rng(5)
    image[mask, 0] = rng.integers(0, 255, int(mask.sum()))
    inside = blur(image, mask, 4)
    assert np.array_equal(inside[~mask], image[~mask])
    assert inside[mask, 0].std() < 0.5 * image[mask, 0].std()
    assert (inside[mask, 1] == 0).all(), "green ran into the square"
    around = blur(image, mask, 4, around=True)
    assert np.array_equal(around[mask], image[mask])
    assert (around[~mask] == (0, 200, 0)).all(), "red ran out of the square"
    with pytest.raises(ValueError, match="strength_px must be above 0"):
        blur(image, mask, 0)


def test_the_background_is_a_color_or_an_image_that_fills_the_frame(scene: tuple[ImageArray, MaskArray]) -> None:
    image, mask = scene
    plain = replace_background(image, mask, (1, 2, 3))
    assert (plain[~mask] == (1, 2, 3)).all() and np.array_equal(plain[mask], image[mask])
    halves = np.zeros((10, 40, 3), np.uint8)
    halves[:, 20:] = 100
    placed = replace_background(image, mask, halves)
    assert (placed[30:, :28] == 0).all() and (placed[30:, 32:] == 100).all(), "the middle is not in the middle"
    with pytest.raises(ValueError, match="three numbers from 0 to 255"):
        replace_background(image, mask, (0, 0, 300))


def test_what_is_erased_looks_like_what_is_around(scene: tuple[ImageArray, MaskArray]) -> None:
    image, mask = scene
    result = erase(image, mask)
    assert (np.abs(result.astype(int) - (0, 200, 0)) <= 3).all()
    marked = image.copy()
    marked[0, 0] = (9, 8, 7)
    assert tuple(erase(marked, mask)[0, 0]) == (9, 8, 7)
    with pytest.raises(UserError, match="covers the whole image"):
        erase(image, np.ones_like(mask))
    with pytest.raises(ValueError, match="grow_px must be 0 or more"):
        erase(image, mask, grow_px=-1)
