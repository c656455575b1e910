"""`ullava train` on a native core: from model.yaml through training and evaluation to answers and a further run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.unit.modeling.native_models import HEADS, NATIVES, needed_packages, write_processor
from tests.unit.training.conftest import RECIPE

import ullava

Command = Callable[..., tuple[int, str, str]]


ALWAYS = ("idefics3", "qwen2_5_vl")
REST = tuple(pytest.param(name, marks=pytest.mark.exhaustive) for name in NATIVES if name not in ALWAYS)


@pytest.fixture(params=[*ALWAYS, *REST])
def native_recipe(
    request: pytest.FixtureRequest, tmp_path: Path, world: Path, write: Callable[[str, str], Path]
) -> Path:
    """A recipe of a few steps for a native core at random weights."""
    family = request.param
    needed_packages(family)
    processor = write_processor(family, tmp_path / "processor")
    core = {"kind": "native", "config": NATIVES[family].config, "processor": str(processor)}
    model = write("model.yaml", yaml.safe_dump({"name": family, "core": core}) + HEADS)
    return write("recipe.yaml", RECIPE.replace("WORLD", str(world)).replace("MODEL", str(model)))


def test_a_native_core_is_trained_evaluated_asked_and_goes_on(
    native_recipe: Path, command: Command, tmp_path: Path, world: Path
) -> None:
    run = tmp_path / "run"
    code, out, err = command(
        "train", str(native_recipe), "eval_dataset={shapes_vqa: {limit: 2}}", "max_new_tokens=8",
        "training.max_steps=2", "--out", str(run),
    )  # fmt: skip
    assert code == 0, err
    assert "language model" in out and "vision tower" in out
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["training"]["steps"] == 2 and metrics["results"][0]["skipped"] == 0
    predictor = ullava.load(str(run / "model"), device="cpu")
    image = next(path for path in sorted((world / "images").iterdir()))
    assert predictor.answer(image, "Where is it?", max_new_tokens=3).new_tokens <= 3
    code, _, err = command(
        "train", str(native_recipe), f"init={run / 'model'}", "stage=ground", "training.max_steps=1",
        "--out", str(tmp_path / "further"),
    )  # fmt: skip
    assert code == 0, err


def test_a_lora_run_on_a_native_core_merges_and_goes_on(native_recipe: Path, command: Command, tmp_path: Path) -> None:
    steps = ("training.max_steps=1", "stage=ground")
    code, _, err = command("train", str(native_recipe), *steps, "stage=scratch", "--out", str(tmp_path / "base"))
    assert code == 0, err
    lora = ("lora={r: 2, dropout: 0.0}", *steps)
    line = ("train", str(native_recipe), *lora, f"init={tmp_path / 'base' / 'model'}", "--out", str(tmp_path / "run"))
    code, out, err = command(*line)
    assert code == 0 and "LoRA adapters" in out, err
    adapter = tmp_path / "run" / "adapter"
    code, _, err = command("train", str(native_recipe), *lora, f"init={adapter}", "--out", str(tmp_path / "further"))
    assert code == 0, err
    code, _, err = command("convert", "merge", "--from", str(adapter), "--out", str(tmp_path / "merged"))
    assert code == 0, err
    merged, run = (
        ullava.load(str(folder), device="cpu") for folder in (tmp_path / "merged", tmp_path / "run" / "model")
    )
    assert merged.model.state_dict().keys() == run.model.state_dict().keys()


def test_vision_settings_on_a_native_core_are_refused_before_any_step(
    native_recipe: Path, command: Command, tmp_path: Path
) -> None:
    code, _, err = command("train", str(native_recipe), "vision={gamma: 1}", "--out", str(tmp_path / "run"))
    assert code == 2 and "core native has no vision strategy" in err
