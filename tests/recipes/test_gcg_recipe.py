"""Captions with masks: the small model goes on to learn them, and both recipes measure it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ullava.cli.main import main
from ullava.synthetic.write import draw_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_world(tmp_path_factory.mktemp("grounded") / "world", 6, 3, progress=False, grounded=True)


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    short = ["max_steps=2", "warmup_steps=0", "per_device_train_batch_size=4", "logging_steps=1", "save_strategy=no"]
    settings = [f"training.{setting}" for setting in short]
    assert main(["train", "tiny_gcg", f"data_root={world}", *settings, "--out", str(out)]) == 0
    return out / "model"


def test_masks_of_captions_train_as_others(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained.parent / "train_log.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "loss" in line]
    assert len(losses) == 2 and all(line["loss_dice"] > 0 and line["loss_bce"] > 0 for line in losses), losses


@pytest.mark.parametrize(
    ("recipe", "protocol"),
    [("shapes_grounded", "teacher_forced"), ("shapes_grounded", "generate"), ("eval_gcg", "teacher_forced")],
)
def test_recipes_measure(recipe: str, protocol: str, world: Path, trained: Path, tmp_path: Path) -> None:
    dataset = "dataset={label: {dataset: shapes_grounded, limit: 3}}"
    line = ["eval", recipe, f"data_root={world}", dataset, f"protocol={protocol}", "--model", str(trained)]
    assert main([*line, "max_new_tokens=32", "--out", str(tmp_path / "out")]) == 0
    (row,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["results"]
    assert (row["task"], row["n"]) == ("gcg", 3)
    assert {"mIoU", "mask recall (words)", "phrases right", "captions right"} <= row["metrics"].keys()
    assert ("CIDEr" in row["metrics"]) == (protocol == "generate")
    predictions = [json.loads(text) for text in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    if protocol == "teacher_forced":  # the phrases are the true ones, with all of their masks
        assert row["metrics"]["mIoU"] > 0
        for told in predictions:
            assert len(told["objects"]) == told["answer"].count("[SEG]")
            plain = [thing["phrase"] for thing in told["objects"]]
            assert all(f"[tag]{phrase}[/tag]" in told["answer"] for phrase in plain)
