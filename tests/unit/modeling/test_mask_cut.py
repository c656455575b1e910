"""Where a mask ends: of all numbers of likeliest cells that with the highest expected overlap, less what is faint."""

from __future__ import annotations

import torch

from ullava.modeling.mask_cut import MaskCut, expected_iou_threshold


def drawn(seed: int, shift: float) -> torch.Tensor:
    return 3 * torch.randn(4, 6, 7, generator=torch.Generator().manual_seed(seed)) + shift


def expected_iou(likely: torch.Tensor, taken: torch.Tensor) -> float:
    return float(likely[taken].sum() / (taken.sum() + likely[~taken].sum()))


def test_no_other_number_of_cells_is_expected_to_overlap_more() -> None:
    for seed, shift in ((0, 0.0), (1, -4.0), (2, 5.0)):
        logits = drawn(seed, shift)
        masks = MaskCut("expected_iou").cut(logits) > 0
        for plane, mask in zip(logits, masks, strict=True):
            likely = plane.sigmoid()
            ranks = plane.flatten().argsort(descending=True).argsort().view_as(plane)
            best = max(expected_iou(likely, ranks < count) for count in range(1, plane.numel() + 1))
            assert mask.any() and expected_iou(likely, mask) >= best - 1e-6


def test_sure_masks_end_at_one_half_and_others_below() -> None:
    sure = torch.where(drawn(3, 0.0) > 0, 12.0, -12.0)
    assert torch.equal(MaskCut("expected_iou").cut(sure) > 0, sure > 0)
    unsure = drawn(4, -3.0)
    threshold = expected_iou_threshold(unsure).sigmoid()
    masks = unsure > threshold.logit()[:, None, None]
    for plane, mask, at in zip(unsure.sigmoid(), masks, threshold, strict=True):
        reached = expected_iou(plane, mask)
        inside, outside = plane[mask].min(), plane[~mask].max()
        assert outside < at < inside
        assert outside <= reached / (1 + reached) <= inside  # the rule that the module names


def test_a_mask_of_all_cells_keeps_them() -> None:
    assert (MaskCut("expected_iou").cut(torch.full((1, 3, 3), 2.0)) > 0).all()


def test_the_threshold_counts_as_one_half() -> None:
    logits = drawn(5, 0.0)
    moved, plain = MaskCut("expected_iou", 0.75).cut(logits), MaskCut("expected_iou").cut(logits - 0.75)
    torch.testing.assert_close(moved, plain)
    assert MaskCut().cut(logits) is logits
    torch.testing.assert_close(MaskCut("fixed", 0.5).cut(logits), logits - 0.5)
    assert MaskCut("expected_iou").cut(logits[:0]).shape == (0, 6, 7)


def islands(*peaks: float) -> torch.Tensor:
    """A plane [1, 3, 4 n] with a component of two cells for each peak, far from the others, on a ground of -5."""
    plane = torch.full((1, 3, 4 * len(peaks)), -5.0)
    for place, peak in enumerate(peaks):
        plane[0, 1, 4 * place + 1 : 4 * place + 3] = torch.tensor([peak, 0.5])
    return plane


def test_a_component_much_fainter_than_the_surest_is_left_out() -> None:
    logits = islands(6.0, 4.5, 3.9)
    kept = MaskCut(peak_gap=2.0).cut(logits) > 0
    assert torch.equal(kept, (logits > 0) & (torch.arange(12) < 8))
    assert torch.equal(MaskCut().cut(logits) > 0, logits > 0)
    assert torch.equal(MaskCut(peak_gap=2.2).cut(logits), logits)
    shifted = MaskCut("fixed", 1.0, 2.0).cut(logits)
    assert int((shifted > 0).sum()) == 2 and shifted[0, 1, 9] == -(logits[0, 1, 9] - 1.0)


def test_cells_that_touch_at_a_corner_are_one_component() -> None:
    plane = torch.full((1, 4, 4), -1.0)
    plane[0, 0, 0], plane[0, 1, 1], plane[0, 3, 3] = 9.0, 0.5, 0.5
    assert (MaskCut(peak_gap=1.0).cut(plane) > 0).nonzero().tolist() == [[0, 0, 0], [0, 1, 1]]


def test_planes_for_boxes_keep_their_logits_but_for_what_is_faint() -> None:
    logits = torch.cat([islands(6.0, 3.0), islands(2.0, 2.0)])
    left = MaskCut("expected_iou", 0.0, 1.5).without_faint(logits)
    assert torch.equal(left[1], logits[1])
    assert torch.equal(left[0, :, :4], logits[0, :, :4]) and (left[0, :, 4:] == -5.0).all()
    assert MaskCut("expected_iou").without_faint(logits) is logits
    assert MaskCut(peak_gap=1.0).without_faint(logits[:0]).shape == (0, 3, 8)
