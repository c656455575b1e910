"""Our loss terms against numbers that the original gave: as it should be by default, as it was with a switch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_cases import folders, read
from safetensors.torch import load_file
from torch import Tensor

from ullava import losses
from ullava.losses import box_ullava_v1

EPSILON = 1e-8
"""What the original adds to the number of masks or boxes that it divides by."""


@pytest.fixture(params=folders("losses"))
def case(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return read(request.param), load_file(request.param / read(request.param)["tensors"])


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-5, abs=1e-6)


def mask_terms(logits: list[Tensor], targets: list[Tensor], count: int | None = None) -> tuple[Tensor, Tensor]:
    """BCE and Dice over the masks of all images, divided by their number as the original does, or by ``count``."""
    each = [
        torch.cat([term(found, truth) for found, truth in zip(logits, targets, strict=True)])
        for term in (losses.bce_per_mask, losses.dice_per_mask)
    ]
    bce, dice = (term.sum() / ((len(term) if count is None else count) + EPSILON) for term in each)
    return bce, dice


def test_mask_terms(case):
    expected, tensors = case
    for entry in expected["mask_losses"]:
        logits, targets = tensors[f"{entry['name']}.logits"], tensors[f"{entry['name']}.targets"]
        bce, dice = mask_terms([logits], [targets])
        assert (bce.item(), dice.item()) == (near(entry["bce"]), near(entry["dice"])), entry["name"]
        for key, figure in entry.items():
            stem, other, count = key.partition("_num_masks_")
            if other:
                terms = dict(zip(("bce", "dice"), mask_terms([logits], [targets], int(count)), strict=True))
                assert terms[stem].item() == near(figure), entry["name"]
        assert losses.bce_per_mask(logits, targets).tolist() == near(entry["bce_each"])
        assert losses.dice_per_mask(logits, targets).tolist() == near(entry["dice_each"])
        # Masks are united here, so that no pixel counts twice.
        assert mask_terms([logits], [targets > 0])[0].item() == near(entry["intended"]["bce"]), entry["name"]


def test_gradient_of_mask_terms(case):
    expected, tensors = case
    for entry in expected["mask_losses"]:
        if not entry["n"]:
            continue
        logits = tensors[f"{entry['name']}.logits"].clone().requires_grad_()
        sum(mask_terms([logits], [tensors[f"{entry['name']}.targets"]])).backward()
        assert logits.grad.norm().item() == near(entry["gradient_norm_of_bce_plus_dice"]), entry["name"]


def test_box_terms(case):
    expected, tensors = case
    for entry in expected["box_losses"]:
        predicted, target = tensors[f"{entry['name']}.pred"], tensors[f"{entry['name']}.target"]
        count = entry["num_boxes"]
        share = (len(predicted) + EPSILON) / (count + EPSILON)
        assert share * losses.l1_loss(predicted, target).item() == near(entry["l1"]), entry["name"]
        intended = entry["intended"]
        assert losses.l1_loss(predicted, target).item() == near(intended["l1_mean_over_boxes"]), entry["name"]
        if isinstance(entry["giou"], dict):
            with pytest.raises(ValueError, match="corners swapped"):
                losses.giou_loss(predicted, target)
            continue
        if "giou_with_corners_sorted" in intended:
            assert losses.giou_loss(predicted, target).item() == near(intended["giou_with_corners_sorted"]), entry[
                "name"
            ]
        # Each box its own image: only the swapped predictions of the original remain, not its second division.
        images = torch.arange(len(predicted))
        original = box_ullava_v1.giou_loss(predicted, target, images)
        assert share * original.item() == near(entry["giou"]), entry["name"]


def test_whole_loss_with_double_division(case):
    expected, tensors = case
    for entry in expected["whole_loss"]:
        name, images = entry["name"], range(len(entry["counts"]))
        parts = {
            key: [tensors[f"agg.{name}.{key}.{image}"] for image in images]
            for key in ("pred_masks", "gt_masks", "pred_boxes", "gt_boxes")
        }
        bce, dice = mask_terms(parts["pred_masks"], parts["gt_masks"])
        boxes = torch.cat(parts["pred_boxes"]), torch.cat(parts["gt_boxes"])
        image_of_box = torch.repeat_interleave(torch.arange(len(entry["counts"])), torch.tensor(entry["counts"]))
        l1 = box_ullava_v1.l1_loss(*boxes, image_of_box)
        giou = box_ullava_v1.giou_loss(*boxes, image_of_box)
        terms = entry["original_terms_unweighted"]
        assert [term.item() for term in (bce, dice, l1, giou)] == near(
            [terms[k] for k in ("bce", "dice", "l1", "giou")]
        )
        assert losses.l1_loss(*boxes).item() == near(entry["intended_box_terms"]["l1"]), name
        for weights, original in (("weights", "original"), ("other_weights", "original_with_other_weights")):
            ce, mask, box = (entry[weights][key] for key in ("ce_weight", "bce_weight", "l1_weight"))
            total = ce * entry["language_model_loss"] + mask * bce + entry[weights]["dice_weight"] * dice
            total = total + box * l1 + entry[weights]["iou_weight"] * giou
            assert total.item() == near(entry[original]["loss"]), name
