"""Masks through clips: both stages of the small model with a memory train, and its recipe measures it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.recipes.conftest import Train, losses

from ullava.cli.main import main
from ullava.synthetic.write_tracks import draw_track_world


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_track_world(tmp_path_factory.mktemp("tracks") / "world", 4, 9, "train", progress=False)


def terms_of(run: Path) -> set[str]:
    lines = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    return {key for line in lines for key, value in line.items() if key.startswith("loss_") and value > 0}


def test_both_stages_train_and_the_masks_of_clips_are_measured(
    train: Train, clips: Path, lessons: Path, tmp_path: Path
) -> None:
    images = [f"dataset.{name}.data_root={lessons}" for name in ("shapes_res", "shapes_gres")]
    settings = (f"data_root={clips}", *images, "training.per_device_train_batch_size=4")
    first = train("tiny_clips_1", 2, *settings)
    assert len(losses(first)) == 2 and {"loss_ce", "loss_bce", "loss_giou"} <= terms_of(first)
    only = "dataset={shapes_video_refer: {weight: 2, turns: 1}, shapes_video_naming: {weight: 1, turns: 2}}"
    second = train("tiny_clips", 1, settings[0], only, settings[-1], f"init={first / 'model'}")
    assert {"loss_ce", "loss_dice", "loss_presence"} <= terms_of(second)
    for carrying in ("memory", "frames"):
        line = ["eval", "shapes_video_refer", f"data_root={clips}", "dataset.shapes_video_refer.limit=1"]
        line += [f"clip_masks={carrying}", "max_new_tokens=4", "--model", str(second / "model")]
        assert main([*line, "--out", str(tmp_path / carrying)]) == 0
        (row,) = json.loads((tmp_path / carrying / "metrics.json").read_text())["results"]
        assert {"J", "F", "J&F"} <= set(row["metrics"])


def test_the_shipped_model_masks_what_moves_in_new_clips(tmp_path: Path) -> None:
    clips = draw_track_world(tmp_path / "clips", 6, 77, "seen", progress=False)
    line = ["eval", "shapes_video_refer", "--model", "tiny_clips", f"data_root={clips}", "--out", str(tmp_path / "out")]
    assert main(line) == 0
    (row,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["results"]
    assert row["n"] > 20 and row["metrics"]["J&F"] > 40
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    things = [thing for line in lines for thing in json.loads(line)["objects"]]
    assert any(None in thing["masks"]["counts"] for thing in things), "some things are out of view for some frames"
