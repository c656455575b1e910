"""IL_MCC, pmF1, cgF1, ECE and the risk-coverage curve against slow counts by hand."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.evaluation.answering import Perfect

from ullava.config.schema import EvalRecipe
from ullava.data.readers.base import TaskDataset
from ullava.evaluation.metrics.boxes import GeneralizedReferringBoxes
from ullava.evaluation.metrics.concepts import IOU_LEVELS, best_of, paired
from ullava.evaluation.metrics.masks import GeneralizedReferringMasks
from ullava.evaluation.metrics.selective import risk_coverage
from ullava.evaluation.run import evaluate
from ullava.geometry import mask_ious
from ullava.structures import Answer, GroundedObject, MaskArray, Region, Sample

Make = Callable[..., EvalRecipe]
Open = Callable[[EvalRecipe], dict[str, TaskDataset]]


def best_pairs(ious: np.ndarray) -> list[float]:
    """The IoU of the best pairs of all, by trying every order of the things said."""
    said, true = ious.shape
    few = min(said, true)
    if not few:
        return []
    orders = (
        list(zip(chosen, others, strict=True))
        for chosen in itertools.permutations(range(said), few)
        for others in itertools.combinations(range(true), few)
    )
    best = max(orders, key=lambda pairs: sum(ious[a, b] for a, b in pairs))
    return [float(ious[a, b]) for a, b in best]


def counted(questions: list[np.ndarray]) -> dict[str, float]:
    """pmF1, macro F1, IL_MCC and cgF1 of IoU [said, true] by question, counted one thing at a time."""
    micro, macro = [], []
    for level in IOU_LEVELS:
        hit = wrong = missed = 0
        single = []
        for ious in questions:
            said, true = ious.shape
            if not true:
                continue
            found = sum(1 for iou in best_pairs(ious) if iou >= level)
            hit, wrong, missed = hit + found, wrong + said - found, missed + true - found
            single.append(2 * found / (said + true))
        precision, recall = hit / max(hit + wrong, 1), hit / (hit + missed)
        micro.append(2 * precision * recall / (precision + recall) if hit else 0.0)
        macro.append(sum(single) / len(single))
    truth = np.array([1.0 * (ious.shape[1] > 0) for ious in questions])
    answer = np.array([1.0 * (ious.shape[0] > 0) for ious in questions])
    figures = {"pmF1": 100 * sum(micro) / len(micro), "macro F1": 100 * sum(macro) / len(macro)}
    figures["IL_MCC"] = 100 * float(np.corrcoef(truth, answer)[0, 1])  # Matthews' is Pearson's of two bits
    return figures | {"cgF1": figures["pmF1"] * figures["IL_MCC"] / 100}


def things(ious: np.ndarray) -> dict[str, Any]:
    row = {"intersection": 0, "union": 0, "iou": 0.0, "no_target": not ious.shape[1], "none_found": not ious.shape[0]}
    return row | {"things": paired(ious)}


def test_things_are_counted_as_by_hand() -> None:
    rng = np.random.default_rng(5)
    questions = [rng.uniform(0, 1, (int(rng.integers(0, 5)), int(rng.integers(0, 4)))) ** 0.5 for _ in range(80)]
    found = GeneralizedReferringMasks(things(ious) for ious in questions).compute()
    wanted = counted(questions)
    single = [ious for ious in questions if ious.shape[1]]
    f1 = [2 * sum(iou >= 0.5 for iou in best_pairs(ious)) / sum(ious.shape) for ious in single]
    crowded = GeneralizedReferringMasks(things(ious) for ious in questions).details()
    assert crowded == pytest.approx({"macro F1 at IoU 0.5": 100 * sum(f1) / len(f1)})
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert 20 < found["pmF1"] < 80 and found["IL_MCC"] != 0


def test_pairs_are_the_best_together_and_not_one_by_one() -> None:
    """The first thing fits both true ones; taking its best first would leave the second thing without."""
    assert paired(np.array([[0.9, 0.8], [0.7, 0.1]])) == {"said": 2, "true": 2, "matched": [0.8, 0.7]}
    assert paired(np.zeros((0, 3))) == {"said": 0, "true": 3, "matched": []}


def test_of_several_annotators_the_best_counts() -> None:
    one, two = paired(np.array([[0.8]])), paired(np.array([[0.9, 0.0]]))  # 2 * 7/10 / 2 and 2 * 9/10 / 3
    assert best_of([two, one]) is one and best_of([one, two]) is one
    silent = paired(np.zeros((0, 0)))
    assert best_of([paired(np.zeros((0, 2))), silent]) is silent


def test_iou_of_masks_is_exact_and_leaves_open_pixels_out() -> None:
    rng = np.random.default_rng(3)
    said, true = ([rng.random((9, 7)) > 0.5 for _ in range(count)] for count in (3, 2))
    ignore = rng.random((9, 7)) > 0.8
    for open_pixels in (None, ignore):
        keep = np.ones((9, 7), bool) if open_pixels is None else ~open_pixels
        wanted = [[(a & b & keep).sum() / ((a | b) & keep).sum() for b in true] for a in said]
        np.testing.assert_allclose(mask_ious(said, true, open_pixels), wanted)
    with pytest.raises(ValueError, match="different sizes"):
        mask_ious(said, [np.ones((2, 2), bool)], None)


def told(there: float, no_target: bool, none_found: bool, iou: float) -> dict[str, Any]:
    row: dict[str, Any] = {"intersection": 0, "union": 0, "iou": iou, "no_target": no_target, "none_found": none_found}
    return row | {"there": there}


def test_calibration_error_by_hand() -> None:
    """Two bins: 0.9 of which all are there (off by 0.1), 0.2 of which half the weight is (off by 0.3)."""
    rows = [
        told(0.9, False, False, 1),
        told(0.25, False, True, 0),
        told(0.25, True, True, 1),
        told(0.25, True, True, 1),
    ]
    # Each thing that is there weighs 1/4, each absent one 1/4: bin of 0.9: 1/4 * |0.9 - 1|; of 0.25: 3/4 * |1/4 - 1/3|.
    figures = GeneralizedReferringMasks(rows).compute()
    assert figures["ECE"] == pytest.approx(100 * (0.25 * 0.1 + 0.75 * (1 / 3 - 0.25)))


def slow_curve(rows: list[dict[str, Any]]) -> list[float]:
    """The risk at each coverage, by counting anew each time; questions alike are all orders at once."""
    sure = [1 - row["there"] if row["none_found"] else row["there"] for row in rows]
    risks = []
    for count in range(1, len(rows) + 1):
        border = sorted(sure, reverse=True)[count - 1]
        inside = [1 - row["iou"] for row, value in zip(rows, sure, strict=True) if value > border]
        tied = [1 - row["iou"] for row, value in zip(rows, sure, strict=True) if value == border]
        risks.append((sum(inside) + (count - len(inside)) * sum(tied) / len(tied)) / count)
    return risks


def test_risk_and_coverage_by_hand() -> None:
    rng = np.random.default_rng(9)
    rows = [
        told(round(float(rng.random()), 1), bool(rng.random() < 0.3), bool(rng.random() < 0.4), float(rng.random()))
        for _ in range(57)
    ]
    risks = slow_curve(rows)
    curve = risk_coverage(rows)
    assert curve["risk"] == pytest.approx(risks, abs=1e-6) and curve["coverage"][-1] == 1 and curve["n"] == 57
    assert curve["AURC"] == pytest.approx(math.fsum(risks) / 57, abs=1e-6)
    losses = sorted(1 - row["iou"] for row in rows)
    least = [math.fsum(losses[:count]) / count for count in range(1, 58)]
    assert curve["least_AURC"] == pytest.approx(math.fsum(least) / 57, abs=1e-6) and curve["least_AURC"] < curve["AURC"]
    assert GeneralizedReferringMasks(rows).compute()["AURC"] == pytest.approx(100 * math.fsum(risks) / 57)
    assert risk_coverage(rows[::-1]) == curve  # shards arrive in any order


def test_a_long_curve_is_written_at_a_hundred_coverages() -> None:
    rows = [told(place / 1000, False, False, place / 1000) for place in range(1000)]
    curve = risk_coverage(rows)
    assert len(curve["coverage"]) == 100 and curve["coverage"][0] == 0.01
    assert curve["risk"][0] == pytest.approx(np.mean([1 - place / 1000 for place in range(990, 1000)]))
    assert curve["risk"] == sorted(curve["risk"]) and curve["AURC"] == curve["least_AURC"]


def test_of_one_kind_of_questions_the_figures_are_left_out_with_a_reason() -> None:
    ious = np.array([[0.7]])
    for metric, ending in (
        (GeneralizedReferringMasks([things(ious) | told(0.8, False, False, 0.7)]), "that is there"),
        (GeneralizedReferringMasks([things(np.zeros((1, 0))) | told(0.8, True, False, 0)]), "that is not there"),
        (GeneralizedReferringBoxes([things(ious) | {"exact": True, "there": 0.8}]), "that is there"),
    ):
        figures = metric.compute()
        assert not {"IL_MCC", "cgF1", "ECE"} & figures.keys() and "AURC" in figures
        assert set(metric.left_out()) == {"IL_MCC", "cgF1", "ECE"}
        assert all(ending + ":" in reason for reason in metric.left_out().values())
    boxed = [{"things": {"said": 1, "true": 1}, "no_target": False, "none_found": False, "mask_box_iou": 0.7}]
    boxed += [things(np.zeros((0, 0)))]
    metric = GeneralizedReferringMasks(boxed)
    assert metric.compute()["IL_MCC"] == 100 and not {"pmF1", "cgF1", "macro F1"} & metric.compute().keys()
    assert metric.left_out() == dict.fromkeys(("pmF1", "cgF1"), "what is there has boxes and no masks")
    both = [things(ious) | told(0.8, False, False, 0.7), things(np.zeros((0, 0))) | told(0.1, True, True, 1)]
    assert GeneralizedReferringMasks(both).left_out() == {}
    assert GeneralizedReferringMasks(both).compute()["IL_MCC"] == 100
    always = [things(ious) | told(0.8, False, False, 0.7), things(np.zeros((1, 0))) | told(0.8, True, False, 0)]
    assert GeneralizedReferringMasks(always).compute()["IL_MCC"] == 0  # both kinds asked, one kind answered


class Doubtful(Perfect):
    """Answers with the truth; of absent things it names one, without being sure of it."""

    name = "doubtful"

    def say(self, sample: Sample) -> Answer:
        turn = sample.turns[0]
        if turn.regions:
            found = tuple(self.ground(sample, region) for region in turn.regions)
            return Answer(turn.answer, found, presence=(0.95,) * len(found))
        height, width = sample.truth["height"], sample.truth["width"]
        mask: MaskArray = np.zeros((height, width), bool)
        mask[:3, :3] = True
        return Answer("that", (GroundedObject("that", (0, 4), mask, (0, 0, 3, 3), 0.3),), presence=(0.35,))

    def ground(self, sample: Sample, region: Region) -> GroundedObject:
        return GroundedObject(region.phrase, (0, 4), region.mask, region.box_xyxy_px, 0.9)


@pytest.mark.parametrize("protocol", ["generate", "teacher_forced"])
def test_an_evaluation_writes_figures_and_curves(recipe: Make, datasets: Open, tmp_path: Path, protocol: str) -> None:
    entries = "{gres: {dataset: shapes_gres}, boxes: {dataset: shapes_gres, task: rec}, res: {dataset: shapes_res}}"
    made = recipe(entries, protocol=protocol, bootstrap=5)
    metrics = evaluate(Doubtful(), datasets(made), made, tmp_path, progress=False)
    assert metrics is not None
    gres, boxes, res = metrics["results"]
    new = {"IL_MCC", "pmF1", "cgF1", "macro F1", "ECE", "AURC"}
    assert not new & res["metrics"].keys() and "left_out" not in res
    if protocol == "teacher_forced":
        assert not new & (gres["metrics"].keys() | boxes["metrics"].keys() | gres["intervals"].keys())
        assert not list(tmp_path.glob("risk_coverage*"))
        return
    for result in (gres, boxes):
        figures = result["metrics"]
        assert figures["N-acc"] == 0  # a thing it is not sure of is still said ...
        assert figures["IL_MCC"] == figures["pmF1"] == figures["cgF1"] == 100  # ... and does not count here
        assert figures["ECE"] == pytest.approx(50 * 0.05 + 50 * 0.35)
        assert 0 < figures["AURC"] < 100 - figures["N-acc"] and "ECE" in result["intervals"]
    curves = json.loads((tmp_path / "risk_coverage.json").read_text())
    assert list(curves) == ["gres", "boxes"]
    assert curves["gres"]["risk"][0] == 0 and curves["gres"]["AURC"] == curves["gres"]["least_AURC"]
    with Image.open(tmp_path / "risk_coverage.png") as picture:
        assert picture.format == "PNG" and len(set(picture.convert("L").tobytes())) > 50
