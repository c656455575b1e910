"""The stage II model, and its layout before the box head: outputs, every loss term, gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import folders, read
from gradient_check import check_gradients, rows_with_gradient
from released_models import image_batch, stage_two, tensors
from torch import Tensor

from ullava.config.schema import LossConfig
from ullava.examples import HeadImages, ModelInputs, Targets
from ullava.modeling.heads.mask_sam import SamMaskRules
from ullava.training.optim.objective import GroundingObjective, LossTerms

WEIGHTS = {
    "ce_weight": "ce",
    "bce_weight": "bce",
    "dice_weight": "dice",
    "l1_weight": "l1",
    "iou_weight": "giou",
}


class Run:
    """One case: the converted model, its inputs, and one supervised pass."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.case = read(folder)
        self.folder = folder
        self.out = out
        self.model = stage_two(folder, out)
        self.inputs = tensors(folder, "inputs.safetensors")
        self.expected = tensors(folder, "outputs.safetensors")
        self.batch = self.text() | image_batch(
            self.inputs["images"],
            self.inputs["images_sam"],
            [sample["resized_hw"] for sample in self.case["samples"]],
        )
        with torch.no_grad():
            self.output = self.model(labels=self.inputs["labels"], **self.batch)

    def text(self) -> dict[str, Tensor]:
        return {"input_ids": self.inputs["input_ids"], "attention_mask": self.inputs["attention_mask"].long()}

    def targets(self) -> Targets:
        rows = range(len(self.case["samples"]))
        masks = [mask for row in rows for mask in self.inputs[f"mask_{row}"]]
        boxes = [self.inputs[f"bbox_{row}"] for row in rows if f"bbox_{row}" in self.inputs]
        return Targets(masks=masks, boxes_xyxy_head=torch.cat(boxes) if boxes else torch.zeros(0, 4))

    def judge(self, output: Any, weights: dict[str, float], twice: bool) -> LossTerms:
        named = {ours: weights.get(theirs, 0.0) for theirs, ours in WEIGHTS.items()}
        config = LossConfig(**named, mask_plane="original", box_divide_twice=twice)
        return GroundingObjective(config, SamMaskRules(self.case["sam"]["image_size"]))(output, self.targets())

    def close(self, found: Tensor, expected: Tensor, what: str) -> None:
        torch.testing.assert_close(found, expected, rtol=0, atol=self.case["tolerances"][what])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Run]:
    return {}


@pytest.fixture
def run(request: pytest.FixtureRequest, runs: dict[Path, Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = request.param
    if folder not in runs:
        runs[folder] = Run(folder, tmp_path_factory.mktemp("released") / "model")
    return runs[folder]


BOTH = pytest.mark.parametrize("run", [*folders("stage2_forward"), *folders("stage2_forward_old")], indirect=True)
NEW = pytest.mark.parametrize("run", folders("stage2_forward"), indirect=True)


@BOTH
def test_logits(run: Run) -> None:
    with torch.no_grad():
        logits = run.model(**run.batch).logits
    real = run.inputs["attention_mask"].bool()
    run.close(logits[real], run.expected["logits"][real], "logits_atol")
    supervised = run.inputs["labels"][:, 1:] != run.case.get("ignore_index", -100)
    run.close(run.output.supervised_logits, run.expected["logits"][:, :-1][supervised], "logits_atol")


@BOTH
def test_mask_logits_of_every_image(run: Run) -> None:
    for row, sample in enumerate(run.case["samples"]):
        mine = run.output.seg.mask_logits_lowres[run.output.seg.row == row]
        assert len(mine) == sample["n_seg"]
        rules = SamMaskRules(run.case["sam"]["image_size"])
        assert list(rules.content_hw(sample["size_hw"])) == sample["resized_hw"]
        full = rules.to_original(mine, sample["size_hw"])
        run.close(full, run.expected[f"mask_logits_{row}"], "mask_logits_atol")


@NEW
def test_boxes_are_raw_corners(run: Run) -> None:
    inverted = 0
    for row, sample in enumerate(run.case["samples"]):
        boxes = run.output.loc.boxes_xyxy_head[run.output.loc.row == row]
        assert len(boxes) == sample["n_loc"]
        run.close(boxes, run.expected[f"boxes_{row}"], "boxes_atol")
        inverted += int((boxes[:, 2:] < boxes[:, :2]).any(1).sum())
    assert inverted >= run.case["inverted_boxes_wanted"]


def every_image(batch: dict[str, Tensor]) -> tuple[HeadImages, Tensor]:
    """What the mask head sees of a batch, and the rows of all of it."""
    images = ModelInputs.from_kwargs(batch).mask_images
    assert images is not None
    return images, torch.arange(len(images.pixels))


@NEW
def test_what_lies_between(run: Run) -> None:
    expected = tensors(run.folder, "intermediates.safetensors")
    model = run.model
    with torch.no_grad():
        hidden = model(output_hidden_states=True, **run.batch).hidden_states[-1]
        features = model.vision.patch_states(run.inputs["images"])
        images = model.mask_head.embed(*every_image(run.batch))
        places = model.mask_head.sam.get_image_wide_positional_embeddings()
    real = run.inputs["attention_mask"].bool()
    run.close(hidden[real], expected["last_hidden_state"][real], "intermediates_atol")
    run.close(features, expected["clip_features"], "intermediates_atol")
    run.close(images, expected["sam_image_embedding"], "intermediates_atol")
    run.close(places, expected["sam_dense_pe"], "intermediates_atol")
    for row in range(len(run.case["samples"])):
        mine = run.output.seg.row == row
        lowres, quality = run.output.seg.mask_logits_lowres[mine], run.output.seg.iou_scores[mine]
        run.close(lowres, expected[f"low_res_mask_logits_{row}"][:, 0], "mask_logits_atol")
        run.close(quality, expected[f"iou_predictions_{row}"][:, 0], "intermediates_atol")


@BOTH
def test_every_loss_term_of_the_original(run: Run) -> None:
    atol = run.case["tolerances"]["loss_atol"]
    loss = run.case["loss"]
    terms = run.judge(run.output, loss["weights"], twice=True)
    returned = loss["returned"]
    assert terms.total.item() == pytest.approx(returned["loss"], abs=atol)
    ce = loss["terms"]["ce"] if "terms" in loss else loss["ce_alone"]
    assert terms["ce"].item() == pytest.approx(ce, abs=atol)
    assert loss["weights"]["bce_weight"] * terms["bce"].item() == pytest.approx(returned["mask_bce_loss"], abs=atol)
    assert loss["weights"]["dice_weight"] * terms["dice"].item() == pytest.approx(returned["mask_dice_loss"], abs=atol)


@NEW
def test_box_terms_of_the_original_and_as_they_should_be(run: Run) -> None:
    atol = run.case["tolerances"]["loss_atol"]
    weights, given = run.case["loss"]["weights"], run.case["loss"]["terms"]
    original = run.judge(run.output, weights, twice=True)
    assert weights["l1_weight"] * original["l1"].item() == pytest.approx(given["l1_weighted"], abs=atol)
    assert weights["iou_weight"] * original["giou"].item() == pytest.approx(given["giou_weighted"], abs=atol)
    other = run.case["loss_other_weights"]
    total = run.judge(run.output, other["weights"], twice=True).total
    assert total.item() == pytest.approx(other["returned"]["loss"], abs=atol)

    intended = run.case["loss_as_intended"]
    ours = run.judge(run.output, weights, twice=False)
    assert ours["l1"].item() == pytest.approx(intended["l1_divided_once"], abs=atol)
    # A box with swapped corners learns in ours, so that the mean also holds its share.
    valid = torch.tensor(intended["valid_boxes"])
    if bool(valid.all()):
        assert ours["giou"].item() == pytest.approx(intended["giou_divided_once_inverted_contribute_zero"], abs=atol)
    else:
        assert ours["giou"].item() > intended["giou_divided_once_inverted_contribute_zero"]


@BOTH
def test_the_report_of_the_conversion(run: Run) -> None:
    report = json.loads((run.out / "conversion.json").read_text(encoding="utf-8"))
    assert report["started at random"] == (["box_head"] if "absent" in run.case else [])
    assert any(name.endswith("position_ids") for name in report["left out"])
    assert all(len(entry["sha256"]) == 64 for entry in [*report["inputs"], *report["outputs"]])
    assert report["notes"], "a folder without tokenizer says so"
    config = run.model.config
    assert config.seg_id == run.case["token_ids"]["[SEG]"]
    assert config.loc_id == run.case["token_ids"].get("[LOC]", -1)
    assert config.image_patch_id == run.case["token_ids"]["<image_patch>"]
    assert config.vision_feature_layer == run.case["vision_hidden_layer"]


@NEW
@pytest.mark.parametrize("marker_gradient_only", [True, False])
def test_gradients(run: Run, marker_gradient_only: bool) -> None:
    """The original keeps projector_from_scratch in stage II by mistake; ours has a switch for that, off by default."""
    expected = run.case["gradients"][f"projector_from_scratch={str(marker_gradient_only).lower()}"]
    assert run.model.config.marker_gradient_only is False
    run.model.config.marker_gradient_only = marker_gradient_only
    try:
        run.model.zero_grad()
        terms = run.judge(run.model(labels=run.inputs["labels"], **run.batch), run.case["loss"]["weights"], twice=True)
        assert terms.total.item() == pytest.approx(expected["loss"], abs=run.case["tolerances"]["loss_atol"])
        terms.total.backward()
        noise = run.case["gradients_zero_in_exact_arithmetic"]
        assert check_gradients(run.model, expected, run.case["tolerances"], "llm.", noise) > 100
        table = run.model.get_input_embeddings().weight.grad
        assert rows_with_gradient(table) == expected["embedding_rows_with_gradient"]
    finally:
        run.model.zero_grad()
        run.model.config.marker_gradient_only = False
