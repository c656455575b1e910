"""The recipe that continuous integration trains: the loss falls, and the model finds things that it did not before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ullava.synthetic.write import draw_world

CIOU_MARGIN = {"shapes_res": 6.0, "shapes_salient": 30.0}
"""Points of cIoU above the untrained model, teacher-forced, on images never trained on. Measured: 12 and 60."""

LOSS_SHARE = 0.5
"""The last logged loss against the first. Measured: 0.32."""


def test_ci_recipe_learns(command: Callable[..., tuple[int, str, str]], root: Path, tmp_path: Path) -> None:
    draw_world(tmp_path / "train", 600, 21, "train")
    draw_world(tmp_path / "seen", 24, 121, "seen")
    recipe = root / "configs" / "train" / "ci.yaml"
    overrides = [f"eval_dataset.{name}.data_root={tmp_path / 'seen'}" for name in CIOU_MARGIN]
    overrides += [f"data_root={tmp_path / 'train'}", "training.disable_tqdm=true", "training.use_cpu=true"]
    code, _, err = command("train", str(recipe), *overrides, "--out", str(tmp_path / "run"))
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < LOSS_SHARE * losses[0]
    untrained, trained = [line for line in lines if "eval_shapes_res_cIoU" in line]
    assert (untrained["step"], trained["step"]) == (0, 120)
    for name, margin in CIOU_MARGIN.items():
        gain = trained[f"eval_{name}_cIoU"] - untrained[f"eval_{name}_cIoU"]
        assert gain > margin, f"{name}: cIoU rose by {gain:.1f}, not by {margin}"
    reported = {row["dataset"]: row for row in json.loads((tmp_path / "run" / "metrics.json").read_text())["results"]}
    assert reported["shapes_res"]["metrics"]["cIoU"] == pytest.approx(trained["eval_shapes_res_cIoU"], abs=1e-5)
