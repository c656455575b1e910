"""The recipes of "Which mask head?" differ in nothing but the mask head, get the same seconds, and train."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.recipes.conftest import losses
from tests.unit.modeling.small_segmenters import has_timm

from ullava import resources
from ullava.cli.main import main
from ullava.config.comparison import CompareRecipe
from ullava.config.load import load_config
from ullava.config.schema import ModelConfig, TrainRecipe

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "train" / "heads"
HEADS = {"sam": "sam", "sam2": "sam2", "sam3": "sam3_tracker", "edgetam": "edgetam"}


def test_nothing_but_the_mask_head_differs() -> None:
    assert {path.stem.removeprefix("heads_") for path in FOLDER.glob("*.yaml")} == set(HEADS)
    recipes = [asdict(load_config(TrainRecipe, FOLDER / f"heads_{name}.yaml")) for name in HEADS]
    models = [asdict(load_config(ModelConfig, resources.find("models", f"heads_{name}"))) for name in HEADS]
    assert [recipe.pop("model") for recipe in recipes] == [f"heads_{name}" for name in HEADS]
    assert [model.pop("mask")["kind"] for model in models] == list(HEADS.values())
    assert [model.pop("name") for model in models] == [f"heads_{name}" for name in HEADS]
    assert all(recipe == recipes[0] for recipe in recipes) and all(model == models[0] for model in models)
    contenders = load_config(CompareRecipe, resources.find("configs", "mask_heads")).contenders
    assert {entry.model: entry.runs for entry in contenders.values()} == {
        f"runs/heads_{name}/model": [f"runs/heads_{name}"] for name in HEADS
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "sam2",
        "sam3",
        pytest.param("edgetam", marks=pytest.mark.skipif(not has_timm(), reason="its encoder is timm's RepViT")),
    ],
)
def test_a_head_takes_the_place_of_tinys_and_trains(name: str, tmp_path: Path) -> None:
    world = tmp_path / "world"
    assert main(["data", "draw", "--out", str(world), "--images", "3", "--seed", "1", "--grounded"]) == 0
    line = ["train", f"heads_{name}", f"data_root={world}", "training.max_steps=2", "training.logging_steps=1"]
    line += ["training.per_device_train_batch_size=2", "training.use_cpu=true", "training.disable_tqdm=true"]
    assert main([*line, "--out", str(tmp_path / "run")]) == 0
    assert len(losses(tmp_path / "run")) == 2 and all(math.isfinite(loss) for loss in losses(tmp_path / "run"))
    evaluation = ["eval", "heads", f"data_root={world}", "dataset.shapes_res.limit=2", "dataset.shapes_salient.limit=2"]
    line = [*evaluation, "--model", str(tmp_path / "run" / "model"), "--out", str(tmp_path / "eval")]
    assert main(line) == 0
