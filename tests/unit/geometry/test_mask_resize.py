"""The mask plane of the image, against SAM's post-processing step by step."""

from __future__ import annotations

import pytest
import torch
from tests.unit.geometry.plain_resize import interpolated

from ullava.geometry import mask_resize, plan_view, resized_hw
from ullava.geometry.mask_resize import covered_lowres, shrink_targets, to_original

SIZES = [(64, 64, 64), (480, 640, 256), (640, 480, 256), (37, 101, 64), (20, 20, 256), (1, 300, 64)]


@pytest.mark.parametrize(("height", "width", "side"), SIZES)
def test_original_plane_is_what_the_predictor_shows(height: int, width: int, side: int) -> None:
    logits = torch.randn(3, side // 4, side // 4, generator=torch.Generator().manual_seed(1))
    covered = resized_hw(plan_view("pad_br", (width, height), side))
    expected = interpolated(logits, side=side, resized_hw=covered, original_hw=(height, width))
    found = to_original(logits, square=side, resized_hw=covered, orig_hw=(height, width))
    assert found.shape == (3, height, width)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_gradient_is_that_of_interpolation() -> None:
    weights = torch.randn(2, 48, 64, generator=torch.Generator().manual_seed(2))
    gradients = []
    for resize in ("ours", "interpolate"):
        logits = torch.ones(2, 16, 16, requires_grad=True)
        if resize == "ours":
            plane = to_original(logits, square=64, resized_hw=(48, 64), orig_hw=(48, 64))
        else:
            plane = interpolated(logits, side=64, resized_hw=(48, 64), original_hw=(48, 64))
        (plane * weights).sum().backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-5)


def test_stays_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        plane = to_original(torch.full((1, 16, 16), 1.001), square=64, resized_hw=(64, 64), orig_hw=(64, 64))
    assert plane.dtype == torch.float32
    torch.testing.assert_close(plane, torch.full((1, 64, 64), 1.001), atol=1e-5, rtol=0)


def test_works_after_a_first_use_in_inference_mode() -> None:
    with torch.inference_mode():
        to_original(torch.zeros(1, 8, 8), square=32, resized_hw=(32, 31), orig_hw=(33, 29))
    logits = torch.zeros(1, 8, 8, requires_grad=True)
    to_original(logits, square=32, resized_hw=(32, 31), orig_hw=(33, 29)).sum().backward()
    assert float(logits.grad.sum()) == pytest.approx(33 * 29, rel=1e-5)


def test_low_plane_keeps_what_the_image_covers() -> None:
    logits = torch.arange(64.0).reshape(1, 8, 8)
    covered = covered_lowres(logits, square=32, resized_hw=(16, 32))
    assert covered.shape == (1, 4, 8)
    assert torch.equal(covered[0], logits[0, :4])
    mask = torch.zeros(1, 8, 16, dtype=torch.uint8)
    mask[0, :, :2] = 1
    small = shrink_targets(mask, 4, 8)
    assert torch.equal(small[0, :, 0], torch.ones(4))
    assert float(small.sum()) == 4.0


@pytest.mark.parametrize("size_hw", [(33, 300), (300, 33)])
def test_a_long_axis_is_interpolated_without_a_matrix(
    size_hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(3))
    given = {"square": 64, "resized_hw": resized_hw(plan_view("pad_br", size_hw[::-1], 64)), "orig_hw": size_hw}
    expected = to_original(logits, **given)
    monkeypatch.setattr(mask_resize, "LONGEST_BY_MATRIX", 64)
    before = mask_resize._axis_matrix.cache_info().currsize
    torch.testing.assert_close(to_original(logits, **given), expected, atol=2e-5, rtol=1e-5)
    assert mask_resize._axis_matrix.cache_info().currsize == before
