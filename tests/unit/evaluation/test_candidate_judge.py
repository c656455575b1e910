"""A judge of candidates learns from questions whose masks are known; an evaluation tells what the choice is worth."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ullava.config.load import parse_text
from ullava.config.schema import EvalRecipe
from ullava.errors import ConfigError, UserError
from ullava.evaluation.candidate_judge import Judged, bounds, collect, figures, fit
from ullava.evaluation.metrics.masks import ReferringMasks
from ullava.evaluation.run import check_entries
from ullava.evaluation.scoring import ResScorer
from ullava.inference.candidates import Offer
from ullava.inference.load import weights_folder
from ullava.structures import Answer, Candidate, GroundedObject, Region, Sample, Turn


def strip(first: int, last: int) -> np.ndarray:
    """A mask [10, 10] of the columns from ``first`` to before ``last``."""
    mask = np.zeros((10, 10), dtype=bool)
    mask[:, first:last] = True
    return mask


def question(truth: np.ndarray) -> Sample:
    turn = Turn("<image>Segment it.", "[SEG]", (Region("it", mask=truth),))
    return Sample("drawn/0", "drawn", "res", (Path("a.png"),), (turn,), {"groups": ("nearest",)})


def answer(chosen: int, masks: list[np.ndarray]) -> Answer:
    names = ("single", "beams", "beams")
    told = tuple(Candidate(name, "it", mask, None, 0.9) for name, mask in zip(names, masks, strict=False))
    thing = GroundedObject("it", (0, 2), masks[chosen], None, 0.9, provenance=names[chosen], alternatives=told)
    return Answer("[SEG]", (thing,))


def test_a_row_holds_what_the_own_mask_and_the_best_one_would_have_been() -> None:
    scorer, truth = ResScorer(), strip(0, 4)
    masks = [strip(6, 8), strip(0, 2), strip(0, 4)]
    scorer.score_image([question(truth)], [answer(1, masks)])
    plain = GroundedObject("it", (0, 2), strip(0, 4), None, 0.9)
    (row,) = scorer.score_image([question(truth)], [Answer("[SEG]", (plain,))])
    assert "single" not in row
    found = scorer.metric.compute()
    assert (found["gIoU"], found["single gIoU"], found["oracle gIoU"]) == (75, 50, 100)
    assert (found["P@0.5"], found["single P@0.5"], found["oracle P@0.5"]) == (50, 50, 100)
    assert found["single cIoU"] == pytest.approx(40) and found["oracle cIoU"] == 100 and found["other chosen"] == 50
    details = scorer.metric.details()
    assert details["nearest oracle gIoU"] == 100 and details["nearest single gIoU"] == 50
    again = ReferringMasks(json.loads(json.dumps(scorer.metric.state())))
    assert again.compute() == found and again.details() == details


def test_without_candidates_the_figures_are_as_before() -> None:
    scorer = ResScorer()
    scorer.score_image([question(strip(0, 4))], [Answer("", ())])
    assert not [name for name in (*scorer.metric.compute(), *scorer.metric.details()) if "single" in name]


def lesson(rng: np.random.Generator, held: bool) -> Judged:
    """Two candidates; the likelier one is wrong where the state of the other says so."""
    second = bool(rng.random() < 0.5)
    offers = []
    for place, name in enumerate(("single", "beams")):
        state = torch.from_numpy(rng.normal(size=6)).float()
        state[0] = 3.0 if second == bool(place) else -3.0
        thing = GroundedObject("it", (0, 2), strip(5 * place, 5 * place + 4), None, 0.9)
        offers.append(Offer(name, Answer(name, (thing,)), thing, 0.5 + place, state, torch.zeros(3)))
    return Judged.of(offers, [float(not second), float(second)], held)


def test_a_judge_learns_from_states_what_the_words_do_not_tell() -> None:
    rng = np.random.default_rng(3)
    judged = [lesson(rng, held=number % 5 == 0) for number in range(100)]
    held = [one for one in judged if one.held]
    rule = figures(held, None)
    assert rule == bounds(held)["single"] and rule["P@0.5"] < 75 and bounds(held)["oracle"]["P@0.5"] == 100
    judge = fit(judged, (6, 3))
    assert figures(held, judge)["P@0.5"] > 95
    assert sum(weight.numel() for weight in judge.parameters()) < 10_000
    same = fit(judged, (6, 3))
    assert all(torch.equal(one, other) for one, other in zip(judge.parameters(), same.parameters(), strict=True))


def test_a_judge_is_no_worse_in_the_questions_held_back_than_the_words() -> None:
    rng = np.random.default_rng(4)
    judged = []
    for number in range(60):  # nothing to be learned: right and wrong look alike
        one = lesson(rng, held=number % 5 == 0)
        judged.append(replace(one, ious=one.ious[torch.from_numpy(rng.permutation(2))]))
    held = [one for one in judged if one.held]
    assert figures(held, fit(judged, (6, 3)))["gIoU"] >= figures(held, None)["gIoU"]


def test_too_few_questions_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="4 questions with a choice to learn from and 1 held back"):
        fit([lesson(rng, held=number == 0) for number in range(5)], (6, 3))


def test_rows_that_mean_several_things_are_refused(datasets: Any, recipe: Any) -> None:
    asked = recipe("{shapes_gres: {}}")
    with pytest.raises(UserError, match="shapes_gres: task gres is not res"):
        collect(None, datasets(asked), asked, progress=False)  # type: ignore[arg-type]


def test_candidates_go_with_free_answers() -> None:
    text = "protocol: teacher_forced\ndataset: {shapes_res: {}}\ncandidates: {sources: [beams]}"
    with pytest.raises(ConfigError, match="candidates: go with the protocol generate, not teacher_forced"):
        check_entries(parse_text(EvalRecipe, text))


def test_from_the_command_line(world: Path, tmp_path: Path, command: Any) -> None:
    """Train a judge beside a copy of tiny, evaluate by it, take it away."""
    model = Path(shutil.copytree(weights_folder("tiny"), tmp_path / "model"))
    rows = "dataset={shapes_res: {}}", f"data_root={world}", "batch_size=16"
    train = ("calibrate", "--judge", "shapes", "--model", str(model), "--candidates", "2", *rows)
    code, printed, said = command(*train)
    assert code == 0, said
    assert "held back:" in printed and (model / "judge" / "model.safetensors").is_file()
    chosen = ("eval", "shapes", "--model", str(model), *rows, "dataset.shapes_res.limit=3")
    out = tmp_path / "out"
    code, printed, said = command(*chosen, "candidates={sources: [beams], beams: 2}", "--out", str(out))
    assert code == 0, said
    figures = json.loads((out / "metrics.json").read_text())["results"][0]["metrics"]
    assert figures["single gIoU"] <= figures["oracle gIoU"] and figures["gIoU"] <= figures["oracle gIoU"]
    (line, *_) = (out / "predictions.jsonl").read_text().splitlines()
    assert json.loads(line)["objects"][0]["alternatives"][0]["provenance"] == "single"
    code, _, said = command(*chosen, "--out", str(out))
    assert code == 2  # another evaluation than the one that lies there
    assert command("calibrate", "--model", str(model), "--reset")[0] == 0 and not (model / "judge").exists()
    code, _, said = command(*chosen, "candidates={sources: [beams], beams: 2}", "--out", str(tmp_path / "two"))
    assert code == 2 and "no judge of candidates beside this model" in said
