from __future__ import annotations

import pytest
import torch

from ullava import losses
from ullava.geometry.box_tensors import paired_iou_giou
from ullava.losses import box_ullava_v1

UNIT = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
TERMS = ((losses.l1_loss, box_ullava_v1.l1_loss), (losses.giou_loss, box_ullava_v1.giou_loss))


def test_by_hand():
    shifted = torch.tensor([[0.5, 0.0, 1.5, 1.0]])
    assert losses.l1_loss(shifted, UNIT).item() == pytest.approx(1.0)
    # IoU 0.5 / 1.5, and the hull is filled.
    iou, giou = paired_iou_giou(shifted, UNIT)
    assert iou.item() == giou.item() == pytest.approx(1 / 3)
    assert losses.giou_loss(shifted, UNIT).item() == pytest.approx(2 / 3)
    apart = torch.tensor([[2.0, 0.0, 3.0, 1.0]])
    assert losses.giou_loss(apart, UNIT).item() == pytest.approx(1 + 1 / 3)


def test_same_error_costs_the_same_however_many_boxes():
    predicted = torch.tensor([[0.1, 0.2, 0.6, 0.9]])
    for term, doubly in TERMS:
        one = term(predicted, UNIT).item()
        three = term(predicted.repeat(3, 1), UNIT.repeat(3, 1)).item()
        assert three == pytest.approx(one)
        image = torch.zeros(3, dtype=torch.long)
        twice = doubly(predicted.repeat(3, 1), UNIT.repeat(3, 1), image).item()
        assert twice == pytest.approx(one / 3)


def test_swapped_corners_are_judged_and_learn():
    predicted = torch.tensor([[0.8, 0.2, 0.3, 0.9]], requires_grad=True)
    loss = losses.giou_loss(predicted, UNIT)
    loss.backward()
    assert loss.item() == pytest.approx(1 - 0.35)
    assert predicted.grad.abs().sum() > 0
    ignored = box_ullava_v1.giou_loss(predicted, UNIT, torch.zeros(1, dtype=torch.long))
    assert ignored.item() == 0


def test_no_box_gives_zero_that_can_be_differentiated():
    predicted = torch.zeros(0, 4, requires_grad=True)
    images = torch.zeros(0, dtype=torch.long)
    for pair in TERMS:
        for term in pair:
            loss = term(predicted, torch.zeros(0, 4), images)
            assert loss.item() == 0
            loss.backward()


def test_boxes_without_area_stay_finite():
    point = torch.zeros(1, 4, requires_grad=True)
    loss = losses.giou_loss(point, torch.zeros(1, 4))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(point.grad).all()


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="corners swapped"):
        losses.giou_loss(UNIT, UNIT[:, [2, 1, 0, 3]])
    with pytest.raises(ValueError, match="needs image_of_box"):
        box_ullava_v1.l1_loss(UNIT, UNIT)
    with pytest.raises(ValueError, match=r"\[n, 4\]"):
        losses.l1_loss(UNIT, UNIT.repeat(2, 1))


def test_coarse_floats_are_widened():
    assert losses.l1_loss(UNIT.bfloat16(), UNIT).dtype == torch.float32
    # 1/3 in bfloat16 is off by more than a thousandth of itself; the float32 target must not be rounded too.
    third = torch.full((1, 4), 1 / 3)
    assert 0 < losses.l1_loss(third.bfloat16(), third).item() < 0.01
