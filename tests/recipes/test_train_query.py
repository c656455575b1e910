"""The box head that asks GroundingDINO is trained by its recipe, on top of a model that stays what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from tests.recipes.conftest import Train

from ullava.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def query_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny_query's box head on the smaller model that these tests train."""
    recipe = yaml.safe_load((ROOT / "models" / "tiny_query" / "model.yaml").read_text(encoding="utf-8"))
    recipe["extends"] = str(ROOT / "models" / "tiny_quick" / "model.yaml")
    recipe["tokenizer"] = str(ROOT / "models" / "tiny" / "tokenizer")
    path = tmp_path_factory.mktemp("query") / "model.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def test_only_the_box_head_learns_and_its_boxes_are_scored(
    train: Train, beginner: Path, query_yaml: Path, exam: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("tiny_query", 4, f"model={query_yaml}", f"init={beginner}", "training.per_device_train_batch_size=4")
    table = capsys.readouterr().out
    assert [line.split()[-1] for line in table.splitlines() if line.startswith("  language model")] == ["frozen"]
    assert "box detector backbone" in table
    before, after = load_file(beginner / "model.safetensors"), load_file(run / "model" / "model.safetensors")
    kept = {name for name in before if not name.startswith("box_head.")}
    assert kept == {name for name in after if not name.startswith("box_head.")}
    assert all(bool((before[name] == after[name]).all()) for name in kept)
    assert not any("text_backbone" in name for name in after), "the detector's text encoder has no use here"

    out = tmp_path / "rec"
    assert main(["eval", "shapes_rec", "--model", str(run / "model"), f"data_root={exam}", "--out", str(out)]) == 0
    rec = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["results"][0]
    assert rec["task"] == "rec" and rec["n"] > 0 and rec["skipped"] == 0


def test_heads_that_do_not_fit_are_told_apart(
    beginner: Path, query_yaml: Path, lessons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [
        "train",
        "tiny_query",
        f"model={query_yaml}",
        f"init={beginner}",
        "reinit_heads=none",
        f"data_root={lessons}",
    ]
    assert main([*line, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "has box_kind 'regression'" in error and "asks for 'grounding_dino_query'" in error


def test_a_stopped_run_goes_on(
    beginner: Path, query_yaml: Path, lessons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train", "tiny_query", f"model={query_yaml}", f"init={beginner}", f"data_root={lessons}"]
    line += ["training.per_device_train_batch_size=2", "training.save_steps=1", "training.warmup_steps=0"]
    line += ["training.lr_scheduler_type=constant", "training.lr_scheduler_kwargs={}", "--out", str(tmp_path / "run")]
    assert main([*line, "training.max_steps=1"]) == 0
    assert main([*line, "training.max_steps=2", "--resume"]) == 0
    assert "resuming after step 1" in capsys.readouterr().out
