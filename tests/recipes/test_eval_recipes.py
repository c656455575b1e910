"""Every evaluation recipe through the real command line, with drawn data in the place of the published ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ullava.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "configs" / "eval").glob("*.yaml"))
DRAWN = {
    "eval_res": "{label: {dataset: shapes_res, limit: 3}}",
    "eval_rec": "{label: {dataset: shapes_res, task: rec, limit: 3}}",
    "eval_salient": "{label: {dataset: shapes_salient, limit: 3}}",
    "eval_semantic": "{label: {dataset: shapes_semantic, limit: 3}}",
    "eval_caption": "{label: {dataset: shapes_caption, limit: 3}}",
    "eval_vqa": "{label: {dataset: shapes_vqa, limit: 3}}",
    "eval_refcocos": "{label: {dataset: shapes_gres, limit: 3}}",
    "eval_rec_words": "{label: {dataset: shapes_res, task: rec, template: BOXW.json, limit: 3}}",
}
METRIC = {
    "eval_res": "cIoU",
    "eval_rec": "Acc@0.5",
    "eval_salient": "mIoU",
    "eval_semantic": "mIoU",
    "eval_caption": "CIDEr",
    "eval_vqa": "accuracy",
    "eval_refcocos": "gIoU",
    "eval_rec_words": "read",
}

# Words are only measured where the model says them.
SPOKEN = {"eval_caption", "eval_vqa", "eval_rec_words"}
FREE = {"eval_rec_words": "text_box"}
CASES = [(r, FREE.get(r, "generate")) for r in DRAWN] + [(r, "teacher_forced") for r in DRAWN if r not in SPOKEN]


def test_every_recipe_is_tried() -> None:
    # test_train_query, test_video_recipes, test_detail_recipes, test_heads_recipes, test_photo_recipe,
    # test_region_recipes, test_gcg_recipe
    elsewhere = {
        "shapes_rec",
        "eval_video",
        "detail",
        "heads",
        "photo",
        "shapes_regions",
        "shapes_grounded",
        "eval_gcg",
    }
    # tests/unit/evaluation/test_field_sets.py
    field = {"reasonseg", "refcoco_m", "ref_l4", "grounding_suite", "groundingme", "pbench", "sa_co"}
    # tests/unit/evaluation/test_video_evaluation.py
    clips = {"shapes_video_refer", "eval_mevis", "eval_revos", "eval_ref_youtube_vos", "eval_ref_davis17"}
    assert set(RECIPES) == {*DRAWN, "shapes", *elsewhere, *clips, *(f"eval_{name}" for name in field)}


@pytest.mark.parametrize(("recipe", "protocol"), CASES)
def test_recipe_measures(recipe: str, protocol: str, beginner: Path, exam: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = ["eval", recipe, f"data_root={exam}", f"dataset={DRAWN[recipe]}", f"protocol={protocol}"]
    assert main([*line, "max_new_tokens=8", "--model", str(beginner), "--out", str(out)]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["protocol"] == protocol
    (row,) = metrics["results"]
    assert row["n"] >= 3
    assert METRIC[recipe] in row["metrics"]
    assert len((out / "predictions.jsonl").read_text().splitlines()) >= 3


def test_the_drawn_worlds_recipe_has_an_entry_for_every_task(beginner: Path, exam: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = ["eval", "configs/eval/shapes.yaml", "--model", str(beginner), f"data_root={exam}", "--out", str(out)]
    limits = [f"dataset.{name}.limit=2" for name in labels()]
    assert main([*line, *limits, "max_new_tokens=8"]) == 0
    rows = json.loads((out / "metrics.json").read_text())["results"]
    assert {row["task"] for row in rows} == {
        "text", "caption", "vqa", "res", "rec", "gres", "salient", "semantic", "instance",
    }  # fmt: skip


def labels() -> list[str]:
    """The labels of the synthetic world's recipe."""
    from ullava.config.load import load_config
    from ullava.config.schema import EvalRecipe

    return list(load_config(EvalRecipe, ROOT / "configs" / "eval" / "shapes.yaml").dataset)
