"""``ullava eval photo`` on photographs: every row of the recipe, a few questions each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ullava.cli.main import main
from ullava.config.load import load_config
from ullava.config.schema import EvalRecipe
from ullava.resources import find

PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "realdata" / "photos"


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the photographs of ../shared, which are not here")
def test_every_row_of_the_recipe_is_measured(beginner: Path, tmp_path: Path) -> None:
    rows = load_config(EvalRecipe, find("configs", "eval/photo.yaml")).dataset
    roots = {"refcocos_res": "refcocos", "refcocos_rec": "refcocos", "pets": "pets_sample"}
    line = [
        "eval",
        "photo",
        f"data_root={PHOTOS}",
        "max_new_tokens=8",
        "--model",
        str(beginner),
        "--out",
        str(tmp_path),
    ]
    line += [f"dataset.{row}.limit=2" for row in rows]
    line += [f"dataset.{row}.data_root={PHOTOS.parent / folder}" for row, folder in roots.items()]
    assert main(line) == 0
    results = json.loads((tmp_path / "metrics.json").read_text())["results"]
    assert {row["dataset"] for row in results} == set(rows)
    assert all(row["n"] >= 2 for row in results)
    figures = {row["dataset"]: row["metrics"].keys() for row in results}
    assert {"cIoU", "gIoU", "P@0.5"} <= figures["coco_classes"] and {"N-acc", "T-acc"} <= figures["absent_classes"]
    assert "Acc@0.5" in figures["unique_box"] and "CIDEr" in figures["captions"]
