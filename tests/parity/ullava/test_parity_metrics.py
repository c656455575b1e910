"""Figures of the original program's metrics, with our documented deviations: what is missing counts as a miss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden_cases import folders, read
from numpy.typing import NDArray
from safetensors.numpy import load_file

from ullava.evaluation.metrics.boxes import ReferringBoxes
from ullava.evaluation.metrics.masks import ReferringMasks
from ullava.evaluation.metrics.referring_ullava_v1 import ReleasedBoxes, ReleasedMasks

Tensors = dict[str, NDArray[Any]]


@pytest.fixture(params=folders("metrics"))
def goldens(request: pytest.FixtureRequest) -> tuple[dict[str, Any], Tensors]:
    case = read(request.param)
    return case, load_file(request.param / case["tensors"])


def score(case: dict[str, Any], tensors: Tensors, as_released: bool = False) -> tuple[ReferringMasks, ReferringBoxes]:
    masks, boxes = (ReleasedMasks(), ReleasedBoxes()) if as_released else (ReferringMasks(), ReferringBoxes())
    for image in range(case["images"]):
        part = {
            key: tensors[f"{case['name']}.{image}.{key}"]
            for key in ("gt_masks", "pred_logits", "gt_boxes", "pred_boxes")
        }
        for number, truth in enumerate(part["gt_masks"]):
            logits = part["pred_logits"]
            predicted = logits[number] > 0 if number < len(logits) else None
            masks.update(predicted, truth == 1, truth == 255)
        for number, box in enumerate(part["gt_boxes"].astype(float).tolist()):
            found = part["pred_boxes"].astype(float)
            boxes.update(tuple(found[number]) if number < len(found) else None, tuple(box))
    return masks, boxes


def test_every_case(goldens: tuple[dict[str, Any], Tensors]) -> None:
    golden, tensors = goldens
    atol = golden["tolerances"]["atol"]
    for case in golden["cases"]:
        masks, boxes = score(case, tensors)
        intended = case["intended"]
        ious = [row["iou"] for row in masks.rows]
        assert ious == pytest.approx(intended["iou_each"], abs=golden["tolerances"]["iou_atol"]), case["name"]
        assert len(ious) == intended["n_expressions"]
        assert len(boxes.rows) == intended["n_boxes"]
        assert masks.compute()["cIoU"] == pytest.approx(intended["cIoU"], abs=atol), case["name"]
        # The original adds 1e-5 to every union; with unions of a hundred pixels that is below the tolerance.
        assert masks.compute()["gIoU"] == pytest.approx(intended["gIoU"], abs=atol), case["name"]
        assert boxes.compute()["Acc@0.5"] == pytest.approx(intended["prec50"], abs=atol), case["name"]


def test_the_switch_counts_as_the_original(goldens: tuple[dict[str, Any], Tensors]) -> None:
    """There a missing mask leaves the sums of cIoU, a missing box the denominator, and every union is 1e-5 larger."""
    golden, tensors = goldens
    atol = golden["tolerances"]["atol"]
    differs = 0
    for case in golden["cases"]:
        masks, boxes = score(case, tensors, as_released=True)
        original = case["original_float32"]
        assert masks.compute()["cIoU"] == pytest.approx(original["cIoU"], abs=atol), case["name"]
        assert masks.compute()["gIoU"] == pytest.approx(original["gIoU"], abs=atol), case["name"]
        assert boxes.compute()["Acc@0.5"] == pytest.approx(original["prec50"], abs=atol), case["name"]
        differs += (
            abs(original["cIoU"] - case["intended"]["cIoU"]) > 1 or original["prec50"] != case["intended"]["prec50"]
        )
    assert differs, "a case has to tell the two apart"


def test_boxes(goldens: tuple[dict[str, Any], Tensors]) -> None:
    golden, tensors = goldens
    metric = ReferringBoxes()
    for found, truth in zip(tensors["boxes.pred"].tolist(), tensors["boxes.gt"].tolist(), strict=True):
        metric.update(tuple(1000 * v for v in found), tuple(1000 * v for v in truth))  # type: ignore[arg-type]
    ious = np.array([row["iou"] for row in metric.rows])
    # The original computes in float32, which shows for the tiny box.
    assert ious == pytest.approx(np.array(golden["boxes"]["iou"]), abs=5e-5)
    assert (ious > 0.5).astype(int).tolist() == golden["boxes"]["correct"]
    assert metric.compute()["Acc@0.5"] == pytest.approx(golden["boxes"]["prec50"])
