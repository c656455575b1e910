"""A detection export, boxes without masks: imported, trained on for a step and evaluated, for the task rec."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., tuple[int, str, str]]

RECIPE = """
model: tiny
init: tiny
stage: ground
attn_implementation: eager
loss: {ce: 1.0, bce: 2.0, dice: 0.5, l1: 1.0, giou: 1.0}
dataset:
  mine: {dataset: ./mine, turns: 1}
training: {per_device_train_batch_size: 2, max_steps: 1, save_strategy: "no", eval_strategy: "no", seed: 1}
"""

FIGURES = """
model: run/model
protocol: teacher_forced
dataset:
  mine: {dataset: ./mine, split: val, limit: 3}
"""


@pytest.fixture
def export(lessons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The instances of a synthetic world as a detector's data set: no segmentation."""
    value = json.loads((lessons / "annotations" / "instances.json").read_text(encoding="utf-8"))
    for entry in value["annotations"]:
        entry["segmentation"] = []
    (tmp_path / "export.json").write_text(json.dumps(value), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "figures.yaml").write_text(FIGURES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return lessons


def test_boxes_alone_train_and_evaluate(command: Command, export: Path, tmp_path: Path) -> None:
    line = ["data", "import", "coco", "--images", str(export), "--annotations", "export.json", "--out", "mine"]
    code, out, err = command(*line, "--hold-out", "3")
    assert code == 0 and "there are boxes and no masks: read for the task rec" in out, err
    code, _, err = command("train", "recipe.yaml", "--out", "run")
    assert code == 0, err
    code, _, err = command("eval", "figures.yaml", "--out", "figures")
    assert code == 0, err
    (result,) = json.loads((tmp_path / "figures" / "metrics.json").read_text(encoding="utf-8"))["results"]
    assert (result["task"], result["n"] > 0, result["skipped"]) == ("grec", True, 0)
    code, _, err = command("train", "recipe.yaml", "dataset.mine.task=res", "--out", "other")
    assert code == 2 and "this dataset has boxes and no masks; it serves rec, not 'res'" in err
