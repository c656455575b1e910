"""Fitting presence to what an evaluation measured, and the model that carries it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.modeling.conftest import batch_of, grounded_sample
from tests.unit.modeling.small_sam2 import build_sam2

from ullava.errors import DataError, UserError
from ullava.evaluation.calibration import Calibration, Observed, fit, judge, read_observed
from ullava.modeling.construction.auto import load_folder


def observed(seed: int, there: int = 300, absent: int = 900, scale: float = 2.0, shift: float = -3.0) -> Observed:
    """Logits whose true calibration, at equal weight of both kinds, is about ``scale`` and ``shift``."""
    rng = np.random.default_rng(seed)
    true = np.concatenate([rng.normal(2.0, 2.0, there), rng.normal(-2.0, 2.0, absent)])  # log-odds 2 * 2 * x / 4 = x
    return Observed((true - shift) / scale, np.arange(there + absent) < there)


def test_the_fit_finds_the_calibration_that_made_the_scores() -> None:
    seen = observed(0, 3000, 6000)
    found = fit(seen)
    assert found.scale == pytest.approx(2.0, rel=0.1) and found.shift == pytest.approx(-3.0, abs=0.25)
    before, after = judge(seen, Calibration()), judge(seen, found)
    assert after["ECE"] < 2.0 < before["ECE"] and after["AUC"] == pytest.approx(before["AUC"])
    assert abs(after["N-acc"] - after["T-acc"]) < 4 < abs(before["N-acc"] - before["T-acc"])


def test_scores_far_out_do_not_lead_the_fit_astray() -> None:
    """Heavy tails: a full step of Newton's method overshoots, and the next one more."""
    rng = np.random.default_rng(4)
    there, absent = rng.standard_t(1.2, 255) * 2 + 3, rng.standard_t(1.2, 255) * 2 - 1
    seen = Observed(np.clip(np.concatenate([there, absent]), -13.8, 13.8), np.arange(510) < 255)
    found = fit(seen)

    def surprise(scale: float, shift: float) -> float:
        logits = scale * seen.logits + shift
        return float((np.logaddexp(0, logits) - seen.there * logits).mean())

    least = surprise(found.scale, found.shift)
    near = [(scale, shift) for scale in (0.98, 1.0, 1.02) for shift in (-0.03, 0.0, 0.03) if (scale, shift) != (1, 0)]
    assert all(least < surprise(found.scale * scale, found.shift + shift) for scale, shift in near)


@pytest.mark.parametrize("keep", [0.7, 0.9, 0.99])
def test_as_many_stay_found_as_is_asked(keep: float) -> None:
    seen = observed(1)
    figures = judge(seen, fit(seen, keep))
    assert 100 * keep <= figures["T-acc"] <= 100 * keep + 1.0


def test_separable_scores_stay_finite_and_turned_ones_are_refused() -> None:
    clean = Observed(np.array([3.0, 4.0, -4.0, -3.0]), np.array([True, True, False, False]))
    found = fit(clean)
    assert np.isfinite([found.scale, found.shift]).all() and judge(clean, found)["AUC"] == 100.0
    with pytest.raises(UserError, match="nothing to calibrate"):
        fit(Observed(-clean.logits, clean.there))


def test_the_area_counts_ties_half() -> None:
    seen = Observed(np.array([1.0, 0.0, 0.0, -1.0]), np.array([True, True, False, False]))
    assert judge(seen, Calibration())["AUC"] == pytest.approx(100 * 3.5 / 4)


def answers(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def answer(presence: list[float], no_target: bool, dataset: str = "absent") -> dict[str, Any]:
    return {"dataset": dataset, "presence": presence, "scores": {"no_target": no_target}}


def test_answers_are_read_by_their_most_likely_thing(tmp_path: Path) -> None:
    there, gone, other = answer([0.2, 0.75], False), answer([0.0], True), answer([0.5], True, "other")
    words = {"dataset": "captions", "scores": {"cider": 1.0}}
    file = answers(tmp_path / "p.jsonl", [there, gone, words, other])
    seen = read_observed(file, "absent")
    assert seen.there.tolist() == [True, False] and seen.logits[0] == pytest.approx(np.log(3.0))
    assert np.isfinite(seen.logits).all() and len(read_observed(file).there) == 3
    for name, said in (("nothing", "there are absent, captions, other"), ("other", "found 0 and 1")):
        with pytest.raises(UserError, match=said):
            read_observed(file, name)
    file.write_text('{"dataset": "x"}\nno\n')
    with pytest.raises(DataError) as caught:
        read_observed(file)
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [f"{file}:1", f"{file}:2"]


def test_a_model_carries_its_calibration_until_it_is_trained(tmp_path: Path, command: Any) -> None:
    model, processor = build_sam2()
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    seen = observed(2)
    told = 1 / (1 + np.exp(-seen.logits))
    file = answers(tmp_path / "p.jsonl", [answer([float(p)], not t) for p, t in zip(told, seen.there, strict=True)])
    asked = ("calibrate", "--model", str(folder), "--predictions", str(file))

    code, printed, _ = command(*asked, "--dry-run")
    assert code == 0 and "300 things that are there, 900 that are not" in printed
    assert json.loads((folder / "config.json").read_text())["presence_scale"] == 1.0
    assert command(*asked)[0] == 0
    code, _, said = command(*asked)
    assert code == 2 and "is calibrated already; --reset" in said

    again, processor = load_folder(folder, torch.float32)
    assert (again.config.presence_scale, again.config.presence_shift) == pytest.approx((2.0, -3.0), abs=0.5)
    batch = batch_of(processor, [grounded_sample("1", 2)])
    with torch.no_grad():
        raw = model(**batch.inputs.as_kwargs()).seg.presence_logits
        answered = again(**batch.inputs.as_kwargs()).seg.presence_logits
        trained = again.train()(**batch.inputs.as_kwargs()).seg.presence_logits
    torch.testing.assert_close(answered, again.config.presence_scale * raw + again.config.presence_shift)
    torch.testing.assert_close(trained, raw, rtol=1e-4, atol=1e-4)
    assert command("calibrate", "--model", str(folder), "--reset")[0] == 0
    assert load_folder(folder, torch.float32)[0].config.presence_scale == 1.0


def test_what_cannot_be_calibrated_is_one_line(tmp_path: Path, command: Any) -> None:
    code, _, said = command("calibrate", "--model", "tiny", "--predictions", str(tmp_path / "p"))
    assert code == 2 and "mask head sam does not say whether a thing is there" in said
    model, processor = build_sam2()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for options, wanted in (
        ((), "--predictions FILE"),
        (("--predictions", str(tmp_path / "none"), "--keep", "2"), "--keep has to be between 0 and 1"),
        (("--predictions", str(tmp_path / "none")), "No such file"),
    ):
        code, _, said = command("calibrate", "--model", str(tmp_path), *options)
        assert code == 2 and wanted in said
    table = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(table | {"presence_scale": -1}))
    with pytest.raises(UserError, match="presence_scale: expected a number above 0"):
        load_folder(tmp_path, torch.float32)
