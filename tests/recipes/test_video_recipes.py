"""Video in a recipe: an entry is all that training needs, and the evaluation recipe measures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tests.recipes.conftest import Train, losses

from ullava.cli.main import main


def test_an_entry_trains_beside_images_and_words(train: Train, films: Path, tmp_path: Path) -> None:
    entries = {
        "shapes_video_qa": f"{{weight: 2, turns: 1, frames: head_tail, data_root: {films}}}",
        "shapes_video_caption": f"{{weight: 2, data_root: {films}}}",
        "shapes_res": "{weight: 1}",
        "shapes_text": "{weight: 1}",
    }
    dataset = "{" + ", ".join(f"{name}: {entry}" for name, entry in entries.items()) + "}"
    run = train("tiny_quick", 3, f"dataset={dataset}", "training.per_device_train_batch_size=6")
    found = losses(run)
    assert len(found) == 3 and all(math.isfinite(loss) for loss in found)
    out = tmp_path / "out"
    line = ["eval", "eval_video", f"data_root={films}", "--model", str(run / "model"), "--out", str(out)]
    assert main([*line, "max_new_tokens=6", "batch_size=4"]) == 0
    caption, quiz = json.loads((out / "metrics.json").read_text())["results"]
    assert (caption["task"], caption["n"]) == ("caption", 6) and {"CIDEr", "facts"} <= set(caption["metrics"])
    assert quiz["task"] == "vqa" and quiz["n"] > 12 and "accuracy" in quiz["metrics"]
    assert "direction" in quiz["details"]
    record = json.loads((out / "predictions.jsonl").read_text().splitlines()[0])
    assert record["image"] is None and record["video"] == str(films / "videos" / "000000.gif")


def test_the_recipe_with_its_data_is_checked(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "eval_video", f"data_root={films}"]) == 0
    assert "6 records in" in capsys.readouterr().out
    clip = films / "videos" / "000000.gif"
    moved = clip.rename(clip.with_suffix(".away"))
    try:
        assert main(["check", "eval_video", f"data_root={films}"]) == 2
        assert f"{clip}: no such video" in capsys.readouterr().err
    finally:
        moved.rename(clip)
