"""The threshold of masks: tried on one pass, chosen by mean IoU, carried by the model until it is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.modeling.conftest import batch_of, grounded_sample
from tests.unit.modeling.small_sam2 import build_sam2

from ullava.config.schema import DatasetEntry, EvalRecipe
from ullava.data.loading.build import build_datasets
from ullava.errors import UserError
from ullava.evaluation.mask_threshold import Tried, try_thresholds
from ullava.inference.mask_cuts import MaskCuts
from ullava.inference.predictor import Predictor
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.mask_cut import MaskCut
from ullava.structures import Answer, GroundedObject, Sample
from ullava.synthetic.write import draw_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic world of eight images."""
    folder = tmp_path_factory.mktemp("world") / "shapes"
    draw_world(folder, 8, 3, "train")
    return folder


def recipe_of(label: str) -> EvalRecipe:
    return EvalRecipe(dataset={label: DatasetEntry()}, batch_size=3)


def fixed(*thresholds: float) -> tuple[MaskCut, ...]:
    return tuple(MaskCut("fixed", threshold) for threshold in thresholds)


def rows(world: Path, label: str) -> Any:
    return dict(zip([label], build_datasets({label: DatasetEntry()}, world), strict=True))


def too_careful(samples: Sequence[Sample], cuts: Sequence[MaskCut]) -> list[list[Answer]]:
    """Masks that are right at -1, hold a third of their pixels at 0 and the whole image at -2."""
    answers = []
    for at in (cut.threshold for cut in cuts):
        made = []
        for sample in samples:
            truth = np.any([region.mask for region in sample.turns[0].regions], axis=0)
            mask = np.ones_like(truth) if at <= -2 else truth.copy()
            if at >= 0:
                mask[:, : truth.nonzero()[1].max() - truth.any(axis=0).sum() // 3] = False
            things = [GroundedObject(phrase="", span=(0, 0), mask=mask, box_xyxy_px=None, score=1.0)]
            made.append(Answer(text="[SEG]", objects=things))
        answers.append(made)
    return answers


def test_the_best_threshold_is_found(world: Path) -> None:
    tried = try_thresholds(too_careful, rows(world, "shapes_res"), recipe_of("shapes_res"), grid=fixed(-2, -1, 0, 1))
    (best,) = fixed(-1)
    assert tried.best == best and tried.figures[best]["gIoU"] == pytest.approx(100)
    low, _, zero, _ = (figures["gIoU"] for figures in tried.figures.values())
    assert low < zero < 70
    assert tried.questions > 8


def test_equal_rules_stay_simple_and_near_zero() -> None:
    tried = (MaskCut("expected_iou", 0.0), *fixed(-1.0, -0.25, 0.5))
    assert Tried({at: {"gIoU": 50.0} for at in tried}, 3).best == MaskCut("fixed", -0.25)


def test_rows_that_ask_for_no_mask_are_refused(world: Path) -> None:
    with pytest.raises(UserError, match="shapes_caption: task caption does not ask for one mask a question"):
        try_thresholds(too_careful, rows(world, "shapes_caption"), recipe_of("shapes_caption"))


def test_a_model_answers_by_its_threshold_and_trains_without(tmp_path: Path, world: Path, command: Any) -> None:
    model, processor = build_sam2()
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    asked = ("calibrate", "--model", str(folder), "--masks", "shapes", "--dataset", "shapes_res", f"data_root={world}")
    code, printed, err = command(*asked, "--dry-run")
    assert code == 0, err
    assert cut_of(folder) == MaskCut()
    assert command(*asked)[0] == 0
    chosen = cut_of(folder)
    assert f"best is {chosen}" in printed and " <\n" in printed and chosen != MaskCut()

    again, processor = load_folder(folder, torch.float32)
    batch = batch_of(processor, [grounded_sample("1", 2)]).inputs.as_kwargs()
    with torch.no_grad():
        raw = model(**batch).seg.mask_logits_lowres
        torch.testing.assert_close(again(**batch).seg.mask_logits_lowres, chosen.cut(raw))
        torch.testing.assert_close(again.train()(**batch).seg.mask_logits_lowres, raw, rtol=1e-4, atol=1e-4)
    assert command("calibrate", "--model", str(folder), "--reset")[0] == 0
    assert load_folder(folder, torch.float32)[0].config.mask_cut == MaskCut()


def cut_of(folder: Path) -> MaskCut:
    table = json.loads((folder / "config.json").read_text())
    return MaskCut(table["mask_rule"], table["mask_threshold"], table["mask_peak_gap"])


def test_one_pass_answers_as_the_model_with_that_threshold(world: Path) -> None:
    model, processor = build_sam2()
    predictor = Predictor(model.eval(), processor)
    samples = rows(world, "shapes_res")["shapes_res"].queries(0)[:2]
    cuts = (*fixed(-1.0, 0.25), MaskCut("expected_iou", 1.0), MaskCut("expected_iou", 1.0, 0.05))
    model.config.mask_threshold = 0.25
    together = MaskCuts(predictor)(samples, cuts)
    assert model.config.mask_cut == cuts[1]
    for cut, answers in zip(cuts, together, strict=True):
        model.config.mask_rule, model.config.mask_threshold = cut.rule, cut.threshold
        model.config.mask_peak_gap = cut.peak_gap
        for found, expected in zip(answers, predictor.teacher_forced(samples), strict=True):
            assert [thing.mask.sum() for thing in found.objects] == [thing.mask.sum() for thing in expected.objects]
            for ours, theirs in zip(found.objects, expected.objects, strict=True):
                assert np.array_equal(ours.mask, theirs.mask)
    assert len({sum(thing.mask.sum() for answer in answers for thing in answer.objects) for answers in together}) > 1


def test_what_does_not_go_together_is_one_line(tmp_path: Path, command: Any) -> None:
    model, processor = build_sam2()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for options, wanted in (
        (("x=1",), "x=1: values of a recipe go with --masks RECIPE"),
        (("--masks", "photo", "--dataset", "coco_clases"), "no row 'coco_clases'; did you mean 'coco_classes'?"),
        (("--masks", "photo", "--reset"), "not allowed with argument"),
        (("--predictions", "x", "--dataset", "a", "--dataset", "b"), "--dataset b: presence is fitted to one row"),
    ):
        code, _, said = command("calibrate", "--model", str(tmp_path), *options)
        assert code == 2 and wanted in said
    table = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(table | {"mask_threshold": "low"}))
    with pytest.raises(UserError, match="mask_threshold: expected a number"):
        load_folder(tmp_path, torch.float32)
    (tmp_path / "config.json").write_text(json.dumps(table | {"mask_rule": "expected_dice"}))
    with pytest.raises(UserError, match="mask_rule: 'expected_dice'; did you mean 'expected_iou'?"):
        load_folder(tmp_path, torch.float32)
    (tmp_path / "config.json").write_text(json.dumps(table | {"mask_peak_gap": 0}))
    with pytest.raises(UserError, match="mask_peak_gap: expected a number above 0 or null, got 0"):
        load_folder(tmp_path, torch.float32)
