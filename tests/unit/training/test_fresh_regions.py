"""``fresh_regions``: weights that take no regions get them, and nothing else of them changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.modeling.conftest import ROOT, SMALL, build_small, make_image

from ullava.config.load import parse_text
from ullava.config.schema import TrainRecipe
from ullava.errors import ConfigError, UserError
from ullava.inference.predictor import Predictor
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.graphs.parts import refuse_unfit
from ullava.training.loop.init import start_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model without regions."""
    folder = tmp_path_factory.mktemp("saved")
    for part in build_small():
        part.save_pretrained(folder)
    return folder


def recipe(tmp_path: Path, init: Any, regions: str = "  regions: {grid: 1}\n", **more: Any) -> tuple[TrainRecipe, Path]:
    """A recipe whose model is the small one, with regions, and whose weights are those of ``init``."""
    file = tmp_path / "model.yaml"
    words = SMALL.replace("models/tiny", str(ROOT / "models/tiny"))
    file.write_text(words.replace("vision:\n", f"vision:\n{regions}"), encoding="utf-8")
    lines = [f"{key}={value}" for key, value in {"model": file, "init": init, "stage": "ground", **more}.items()]
    return parse_text(TrainRecipe, "dataset: {shapes_regions: {}}\n", "recipe", tuple(lines)), tmp_path / "recipe.yaml"


def test_they_begin_afresh_and_all_else_stays(saved: Path, tmp_path: Path) -> None:
    start = start_model(*recipe(tmp_path, saved, fresh_regions=True))
    model, processor = start.model.eval(), start.processor
    before, reader = load_folder(saved, torch.float32)
    weights = model.state_dict()
    for name, value in before.state_dict().items():
        kept = weights[name][: len(value)] if value.dim() else weights[name]
        assert torch.equal(kept, value), name
    assert {name for name in weights if name not in before.state_dict()} == {
        f"regions.{part}.{layer}.{kind}" for part in ("projector", "position") for layer in (0, 2)
        for kind in ("weight", "bias")
    }  # fmt: skip
    old, new = Predictor(before, reader), Predictor(model, processor)
    image = make_image(0)
    assert (
        new.answer(image, "What is it?", max_new_tokens=5).text
        == old.answer(image, "What is it?", max_new_tokens=5).text
    )
    told = new.answer(image, "What is <region>?", regions=[[1, 2, 30, 30]], max_new_tokens=5)
    model.save_pretrained(tmp_path / "out")
    processor.save_pretrained(tmp_path / "out")
    again = Predictor(*load_folder(tmp_path / "out", torch.float32))
    assert again.answer(image, "What is <region>?", regions=[[1, 2, 30, 30]], max_new_tokens=5).text == told.text
    with pytest.raises(UserError, match="vision.regions: no graph is made"):
        refuse_unfit(model.config)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "takes no regions, model .* does; fresh_regions: true begins them afresh"),
        ({"fresh_regions": True, "regions": ""}, "fresh_regions: model .* has no vision.regions"),
        ({"fresh_regions": True, "lora": "{r: 2}"}, "do not begin beside adapters"),
        ({"fresh_regions": True, "init": "scratch"}, "only where init names weights"),
    ],
)
def test_what_is_not_said_or_cannot_be_is_refused(
    saved: Path, tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        start_model(*recipe(tmp_path, **{"init": saved, **more}))
