"""The stages of MG-LLaVA and AVG-LLaVA one after the other, on their small twins: exactly the published parts move."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.recipes.conftest import losses

from ullava.cli.main import main

STAGES = {
    "mg": ("tiny_mg_pt", "tiny_mg_sft"),
    "avg": ("tiny_avg_s1", "tiny_avg_s2", "tiny_avg_s3_multi", "tiny_avg_s4_rglf"),
}
LANGUAGE = {"language_model.model", "language_model.lm_head"}
MG = {"vision.fusion", "vision.objects", "vision.projector"}
AVG = {"vision.projector", "vision.newline"}
MOVES = {
    "tiny_mg_sft": LANGUAGE | MG,
    "tiny_avg_s2": LANGUAGE | AVG | {"vision.tower"},
    "tiny_avg_s3_multi": LANGUAGE | AVG,
    "tiny_avg_s4_rglf": {"vision.router"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, lessons: Path) -> dict[str, Path]:
    """Every stage for two steps, each from the one before."""
    folder = tmp_path_factory.mktemp("siblings")
    boxes = lessons / "boxes.json"
    if not boxes.exists():
        instances = lessons / "annotations" / "instances.json"
        assert main(["data", "boxes", "--instances", str(instances), "--out", str(boxes)]) == 0
    made: dict[str, Path] = {}
    for stages in STAGES.values():
        before: Path | None = None
        for name in stages:
            line = ["train", name, f"data_root={lessons}", "training.max_steps=2", "training.use_cpu=true"]
            line += ["training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=1"]
            line += ["training.disable_tqdm=true", "training.learning_rate=1e-3"]
            if before is not None:
                line.append(f"init={before / 'model'}")
            before = folder / name
            assert main([*line, "--out", str(before)]) == 0
            made[name] = before
    return made


@pytest.mark.parametrize("name", [name for stages in STAGES.values() for name in stages])
def test_every_stage_runs(runs: dict[str, Path], name: str) -> None:
    found = losses(runs[name])
    assert len(found) == 2 and all(math.isfinite(loss) for loss in found)


@pytest.mark.parametrize("name", MOVES)
def test_exactly_the_published_parts_move(runs: dict[str, Path], name: str) -> None:
    stages = next(stages for stages in STAGES.values() if name in stages)
    before, after = (
        load_file(runs[run] / "model" / "model.safetensors") for run in (stages[stages.index(name) - 1], name)
    )
    moved = {".".join(key.split(".")[:2]) for key in before if not torch.equal(before[key], after[key])}
    assert moved == MOVES[name]


def test_the_log_of_the_router_names_its_terms(runs: dict[str, Path]) -> None:
    lines = [json.loads(line) for line in (runs["tiny_avg_s4_rglf"] / "train_log.jsonl").read_text().splitlines()]
    line = next(line for line in lines if "loss" in line)
    assert line["loss"] == pytest.approx(0.1 * line["loss_aux_rglf_ce"] + line["loss_aux_rglf_rank"], rel=1e-3)


def test_a_trained_model_answers(runs: dict[str, Path], lessons: Path) -> None:
    """With its router and, in MG's case, without any boxes and with those of a file."""
    image = str(next(path for path in sorted((lessons / "images").iterdir()) if path.is_file()))
    for name in ("tiny_mg_sft", "tiny_avg_s4_rglf"):
        out = runs[name] / "answer"
        line = ["predict", "--model", str(runs[name] / "model"), "--image", image, "--prompt", "What is there?"]
        assert main([*line, "--out", str(out), "--max-new-tokens", "3"]) == 0
        assert (out / "answer.json").is_file()
    boxed, boxes = runs["tiny_mg_sft"] / "boxed", lessons / "boxes.json"
    line = ["predict", "--model", str(runs["tiny_mg_sft"] / "model"), "--image", image, "--prompt", "What is there?"]
    assert main([*line, "--boxes", str(boxes), "--out", str(boxed), "--max-new-tokens", "3"]) == 0
    assert json.loads((boxed / "answer.json").read_text())["boxes"] == str(boxes)


def test_missing_boxes_are_counted(lessons: Path, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    entries = json.loads((lessons / "boxes.json").read_text())
    fewer = lessons / "fewer_boxes.json"
    fewer.write_text(json.dumps(entries[1:]))
    dataset = "dataset={shapes_caption: {turns: 0, boxes: fewer_boxes.json}}"
    assert main(["data", "stats", "tiny_mg_pt", f"data_root={lessons}", dataset]) == 0
    assert f"{len(entries) - 1} of {len(entries)} images have boxes" in capsys.readouterr().out
