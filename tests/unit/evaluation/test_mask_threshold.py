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
from ullava.inference.predictor import Predictor
from ullava.modeling.construction.auto import load_folder
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


def rows(world: Path, label: str) -> Any:
    return dict(zip([label], build_datasets({label: DatasetEntry()}, world), strict=True))


def too_careful(samples: Sequence[Sample], thresholds: Sequence[float]) -> list[list[Answer]]:
    """Masks that are right at -1, hold a third of their pixels at 0 and the whole image at -2."""
    answers = []
    for at in thresholds:
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
    tried = try_thresholds(too_careful, rows(world, "shapes_res"), recipe_of("shapes_res"), grid=(-2, -1, 0, 1))
    assert tried.best == -1 and tried.figures[-1]["gIoU"] == pytest.approx(100)
    assert tried.figures[-2]["gIoU"] < tried.figures[0]["gIoU"] < 70
    assert tried.questions > 8


def test_equal_thresholds_stay_near_zero() -> None:
    assert Tried({at: {"gIoU": 50.0} for at in (-1.0, -0.25, 0.5)}, 3).best == -0.25


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
    assert json.loads((folder / "config.json").read_text())["mask_threshold"] == 0.0
    assert command(*asked)[0] == 0
    chosen = json.loads((folder / "config.json").read_text())["mask_threshold"]
    assert f"best is {chosen:g}" in printed and " <\n" in printed and chosen != 0

    again, processor = load_folder(folder, torch.float32)
    batch = batch_of(processor, [grounded_sample("1", 2)]).inputs.as_kwargs()
    with torch.no_grad():
        raw = model(**batch).seg.mask_logits_lowres
        torch.testing.assert_close(again(**batch).seg.mask_logits_lowres, raw - chosen)
        torch.testing.assert_close(again.train()(**batch).seg.mask_logits_lowres, raw, rtol=1e-4, atol=1e-4)
    assert command("calibrate", "--model", str(folder), "--reset")[0] == 0
    assert load_folder(folder, torch.float32)[0].config.mask_threshold == 0.0


def test_one_pass_answers_as_the_model_with_that_threshold(world: Path) -> None:
    model, processor = build_sam2()
    predictor = Predictor(model.eval(), processor)
    samples = rows(world, "shapes_res")["shapes_res"].queries(0)[:2]
    model.config.mask_threshold = 0.25
    together = predictor.at_mask_thresholds(samples, (-1.0, 0.25, 2.0))
    for threshold, answers in zip((-1.0, 0.25, 2.0), together, strict=True):
        model.config.mask_threshold = threshold
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
    ):
        code, _, said = command("calibrate", "--model", str(tmp_path), *options)
        assert code == 2 and wanted in said
    table = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(table | {"mask_threshold": "low"}))
    with pytest.raises(UserError, match="mask_threshold: expected a number"):
        load_folder(tmp_path, torch.float32)
