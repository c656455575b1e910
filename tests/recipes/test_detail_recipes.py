"""The five recipes of "Does it pay?" differ in nothing but the vision encoder, get the same seconds, and train."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.recipes.conftest import losses

from ullava import resources
from ullava.cli.main import main
from ullava.config.comparison import CompareRecipe
from ullava.config.load import load_config
from ullava.config.schema import EvalRecipe, ModelConfig, TrainRecipe

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "train" / "detail"
STRATEGIES = {"clip": "clip_mlp", "mg": "mg", "avg": "avg", "conv": "conv", "slime": "slime"}
SECONDS = 600


def recipe(name: str) -> TrainRecipe:
    return load_config(TrainRecipe, FOLDER / f"detail_{name}.yaml")


def seconds(name: str) -> float:
    budget = recipe(name).budget
    assert budget is not None and budget.clock == "cpu"
    return budget.seconds


def test_all_have_the_same_seconds_mixture_and_schedule() -> None:
    assert {path.stem.removeprefix("detail_") for path in FOLDER.glob("*.yaml")} == {
        *STRATEGIES, "avg_router", "conv_start",
    }  # fmt: skip
    clip = asdict(recipe("clip"))
    for name in STRATEGIES:
        own = asdict(recipe(name))
        shares = {label: {**entry, "boxes": None} for label, entry in own["dataset"].items()}
        assert shares == clip["dataset"]
        free = {"model", "init", "dataset", "parts", "passes", "budget"}
        assert {key: own[key] for key in own.keys() - free} == {key: clip[key] for key in clip.keys() - free}
    assert {seconds(name) for name in ("clip", "mg", "slime", "conv")} == {SECONDS}
    assert seconds("avg") + seconds("avg_router") == SECONDS
    assert all(entry.boxes for entry in recipe("mg").dataset.values())


def test_the_models_differ_in_nothing_but_the_vision_encoder() -> None:
    configs = {name: load_config(ModelConfig, resources.find("models", f"detail_{name}")) for name in STRATEGIES}
    assert {name: config.vision.strategy for name, config in configs.items()} == STRATEGIES
    others = [{**asdict(config), "name": "", "vision": None, "notes": ""} for config in configs.values()]
    assert all(other == others[0] for other in others)


def test_the_comparison_asks_what_was_trained() -> None:
    contenders = load_config(CompareRecipe, resources.find("configs", "vision_encoders")).contenders
    assert {Path(entry.model).parent.name for entry in contenders.values()} == {
        "detail_clip", "detail_mg", "detail_avg_router", "detail_conv", "detail_slime",
    }  # fmt: skip
    evaluation = load_config(EvalRecipe, resources.find("configs", "detail"))
    assert all(entry.boxes == "boxes.json" for entry in evaluation.dataset.values())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of the world of detail and their boxes."""
    out = tmp_path_factory.mktemp("detail") / "world"
    assert main(["data", "draw", "--out", str(out), "--images", "4", "--seed", "1", "--world", "detail"]) == 0
    instances = out / "annotations" / "instances.json"
    assert main(["data", "boxes", "--instances", str(instances), "--out", str(out / "boxes.json")]) == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ("mg", "avg") else [pytest.mark.exhaustive]) for name in STRATEGIES]
)
def test_a_vision_encoder_goes_on_tiny_and_trains(name: str, world: Path, tmp_path: Path) -> None:
    """From the model of the repository, with the published stages that the recipe has, a step of each."""
    start = tmp_path / "start"
    assert main(["convert", "vision_encoder", "--from", "tiny", "--model", f"detail_{name}", "--out", str(start)]) == 0
    stages = {"avg": ("avg", "avg_router"), "conv": ("conv_start", "conv")}.get(name, (name,))
    before = start
    for stage in stages:
        out = tmp_path / stage
        line = ["train", f"detail_{stage}", f"init={before}", f"data_root={world}", "training.max_steps=1"]
        line += ["training.per_device_train_batch_size=2", "training.logging_steps=1", "training.use_cpu=true"]
        assert main([*line, "training.disable_tqdm=true", "--out", str(out)]) == 0
        assert all(math.isfinite(loss) for loss in losses(out)) and len(losses(out)) == 1
        assert json.loads((out / "metrics.json").read_text())["training"]["budget"]["spent"] > 0
        before = out / "model"
