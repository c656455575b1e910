"""Training runs and evaluations with ``mask_cache``, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., tuple[int, str, str]]
IMAGES = 12
"""Of the world that is trained on."""
FROZEN = "parts={SAM image encoder: false}"
STEPS = ("dataset={shapes_res: {turns: 2}}", "training.max_steps=6", "training.save_strategy=no", FROZEN)


@pytest.fixture
def run_it(command: Command, recipe_file: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """A function that trains into ``tmp_path / name``, with a cache where ``kept`` says so."""

    def run(name: str, *arguments: str, kept: bool = True) -> tuple[int, str, str]:
        cache = (f"mask_cache.dir={tmp_path / 'kept'}",) if kept else ()
        return command("train", str(recipe_file), *arguments, *cache, "--out", str(tmp_path / name))

    return run


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def counted(run: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((run / "metrics.json").read_text())["training"]["mask_cache"]
    return found


def test_a_run_and_another_one_after_it_have_the_losses_without_a_cache(run_it: Any, tmp_path: Path) -> None:
    assert run_it("plain", *STEPS, kept=False)[0] == 0
    code, out, err = run_it("first", *STEPS)
    assert code == 0, err
    assert losses(tmp_path / "first") == losses(tmp_path / "plain")
    first = counted(tmp_path / "first")
    assert 0 < first["made"] <= IMAGES and first["found"] > 0 and first["damaged"] == first["not_kept"] == 0
    assert f"mask_cache: maps of {first['found']} images read, of {first['made']} made and kept" in out
    code, _, err = run_it("second", *STEPS, "training.dataloader_num_workers=1")
    assert code == 0, err
    assert losses(tmp_path / "second") == losses(tmp_path / "plain")
    second = counted(tmp_path / "second")
    assert second["made"] == 0 and second["found"] == first["found"] + first["made"]


def test_evaluation_has_the_same_figures_and_takes_what_training_kept(
    run_it: Any, command: Command, world: Path, write: Any, tmp_path: Path
) -> None:
    assert run_it("run", *STEPS)[0] == 0
    entries = len(list((tmp_path / "kept").glob("*/*")))
    recipe = write(
        "eval.yaml",
        f"model: {tmp_path / 'run' / 'model'}\ndata_root: {world}\nprotocol: teacher_forced\n"
        "dataset: {shapes_res: {}}\ndtype: float32\ndevice: cpu\nbatch_size: 4\n",
    )
    assert command("eval", str(recipe), "--out", str(tmp_path / "plain"))[0] == 0
    code, out, err = command(
        "eval", str(recipe), f"mask_cache.dir={tmp_path / 'kept'}", "--out", str(tmp_path / "cached")
    )
    assert code == 0, err
    plain, cached = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("plain", "cached"))
    assert plain == cached and plain["results"][0]["n"] > 12
    assert f"maps of {entries} images read, of {IMAGES - entries} made and kept" in out


def test_what_cannot_be_kept_is_refused_in_one_line(run_it: Any, tmp_path: Path) -> None:
    code, _, err = run_it("trained")
    assert code == 2 and err.count("\n") == 1
    assert "mask_cache: the SAM image encoder trains in stage scratch" in err
    assert "set parts: {SAM image encoder: false}" in err
    code, _, err = run_it("augmented", "dataset={shapes_res: {augment: {flip: 0.5}}}", FROZEN)
    assert code == 2 and "mask_cache keeps maps of whole images, dataset.shapes_res.augment changes them" in err
    code, _, err = run_it("small", FROZEN, "mask_cache.max_gb=0.000001")
    assert code == 2 and "mask_cache.max_gb 1e-06: the maps of one image take" in err
    code, _, err = run_it("none", FROZEN, "mask_cache.max_gb=0")
    assert code == 2 and "mask_cache.max_gb" in err
    assert not (tmp_path / "kept").exists() or not list((tmp_path / "kept").glob("*/*"))
