"""Questions that point at regions: trained with words and masks, and measured, through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.recipes.conftest import Train, losses

from ullava.cli.main import main

KINDS = {"region name", "region colour", "region shape", "region left of", "region above"}


def test_regions_are_trained_and_measured(train: Train, exam: Path, tmp_path: Path) -> None:
    masks = 'dataset.shapes_region_masks={"weight": 4, "turns": 4, "group": image}'
    run = train("tiny_regions", 2, masks, "training.per_device_train_batch_size=4")
    assert len(losses(run)) == 2
    terms = {key for line in (run / "train_log.jsonl").read_text().splitlines() for key in json.loads(line)}
    assert {"loss_ce", "loss_dice", "loss_giou"} <= terms
    model = str(run / "model")
    for protocol in ("generate", "teacher_forced"):
        dataset = (
            "{shapes_region_masks: {limit: 3}}" if protocol == "teacher_forced" else "{shapes_regions: {limit: 3}}"
        )
        line = ["eval", "shapes_regions", f"data_root={exam}", f"dataset={dataset}", f"protocol={protocol}"]
        out = tmp_path / protocol
        assert main([*line, "max_new_tokens=6", "--model", model, "--out", str(out)]) == 0
        (row,) = json.loads((out / "metrics.json").read_text())["results"]
        assert row["n"] >= 3
        if protocol == "generate":
            assert "accuracy" in row["metrics"] and set(row["details"]) <= KINDS
        else:
            assert "cIoU" in row["metrics"]
