from __future__ import annotations

import json

import pytest

from ullava.config.schema import DatasetEntry
from ullava.data.loading.stats import format_report, measure_mixture
from ullava.data.sampling.mixture import Mixture
from ullava.errors import UserError
from ullava.synthetic.write import draw_world


def test_counts_of_a_dataset_worked_out_by_hand(build, data_folder):
    (data_folder.root / "a.jpg").touch()
    part = {"segmentation": [[0, 0, 5, 0, 5, 4, 0, 4]], "category": "dog"}
    head = {"image_path": "a.jpg", "height": 10, "width": 10}
    records = [
        head | {"sentences": ["the dog"], "annotations": [part]},
        head | {"sentences": ["cow"], "annotations": [], "no_target": True},
        head | {"sentences": ["b"], "annotations": [{"category": "dog"}]},
        head | {"sentences": ["c"], "annotations": [part], "image_path": "gone.jpg"},
    ]
    entry = DatasetEntry(portion=2.0)
    report = measure_mixture(Mixture([build("grefer", records, entry)], [entry], 0))
    (row,) = report["datasets"]
    assert (report["walked"], row["items"], row["per_epoch"], row["share"]) == (8, 4, 8, 1.0)
    assert (row["walked"], row["bad"], row["turns_without_target"]) == (4, 4, 2)
    assert row["mask_area_percent"]["mean"] == pytest.approx(20.0)
    assert row["answer_words"]["least"] == 4 and row["regions"]["mean"] == 0.5
    reasons = {entry["name"]: entry["reason"] for entry in report["bad"]}
    assert "record 2: annotations[0]: no 'segmentation'" in reasons["tests/train/2"]
    assert "gone.jpg: no such image" in reasons["tests/train/3"]
    text = format_report(report)
    assert "bad: tests/train/2: " in text and "8 of 8 positions" in text


def test_the_command_reports_a_drawn_world(command, tmp_path, write):
    world = draw_world(tmp_path / "w", 4, seed=1, progress=False)
    recipe = write("mix.yaml", "dataset: {shapes_res: {}, shapes_text: {}}\n")
    code, out, err = command("data", "stats", str(recipe), f"data_root={world}")
    assert code == 0, err
    positions = len(json.loads((world / "annotations" / "res.json").read_text())) + 4
    assert f"{positions} of {positions} positions of an epoch were read" in out
    assert out.index("shapes_res") < out.index("shapes_text")


def test_a_recipe_without_data_ends_with_one_line_for_each_set(command, tmp_path, write):
    recipe = write("mix.yaml", "dataset: {shapes_res: {}, shapes_text: {}}\n")
    code, _, err = command("data", "stats", str(recipe), f"data_root={tmp_path / 'nothing'}")
    assert code == 2
    assert len(err.strip().splitlines()) == 2 and "Traceback" not in err


def test_a_model_is_not_a_recipe(tmp_path):
    from ullava.data.loading.stats import run_stats

    path = tmp_path / "model.yaml"
    path.write_text(json.dumps({"name": "x"}))
    with pytest.raises(UserError, match="not a recipe"):
        run_stats(path, [])
