"""Masks in videos from drawn clips to figures: a run of two steps, evaluated with its memory and frame by frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from tests.unit.modeling.conftest import ROOT, SMALL
from tests.unit.modeling.small_segmenters import sizes

from ullava.synthetic.write_tracks import draw_track_world

Command = Callable[..., tuple[int, str, str]]
RECIPE = """
model: MODEL
init: scratch
stage: scratch
data_root: WORLD
backprop_frames: 2
dataset:
  shapes_video_refer: {turns: 2}
training:
  per_device_train_batch_size: 2
  max_steps: 2
  learning_rate: 1e-3
  logging_steps: 1
  save_strategy: "no"
  disable_tqdm: true
  use_cpu: true
"""


def test_drawn_clips_are_trained_on_and_measured(
    command: Command, write: Callable[[str, str], Path], tmp_path: Path
) -> None:
    world = draw_track_world(tmp_path / "world", 3, 11, "train", progress=False)
    table = yaml.safe_load(SMALL)
    table["tokenizer"] = str(ROOT / table["tokenizer"])
    table["vision"]["video_frames"] = 4
    table["mask"] = {"kind": "sam2_video", "encoder": "own", "sam2_video": {"config": sizes("sam2_video")}}
    model = write("model.yaml", yaml.safe_dump(table))
    recipe = write("recipe.yaml", RECIPE.replace("MODEL", str(model)).replace("WORLD", str(world)))
    code, printed, err = command("train", str(recipe), "--out", str(tmp_path / "run"))
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()]
    assert all(line["loss_bce"] > 0 and line["loss_presence"] > 0 for line in lines if "loss" in line)

    def measured(name: str, *settings: str, of: Any = tmp_path / "run" / "model") -> dict[str, Any]:
        asked = ("eval", "shapes_video_refer", "--model", str(of), f"data_root={world}", "max_new_tokens=6", *settings)
        code, _, err = command(*asked, "dataset.shapes_video_refer.limit=1", "--out", str(tmp_path / name))
        assert code == 0, err
        (row,) = json.loads((tmp_path / name / "metrics.json").read_text())["results"]
        return dict(row)

    by_memory, by_frames = measured("memory"), measured("frames", "clip_masks=frames")
    assert by_memory["n"] == by_frames["n"] > 0 and {"J", "F", "J&F"} <= set(by_memory["metrics"])
    code, _, err = command(
        "eval", "shapes_video_refer", "--model", "tiny", f"data_root={world}", "--out", str(tmp_path / "x")
    )
    assert code == 2 and "clip_masks: frames asks its mask head anew" in err
