"""The small twins of the published recipes, one after the other: what trains, what is kept, what is left behind."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.recipes.conftest import losses

from ullava.cli.main import main
from ullava.config.load import load_config
from ullava.config.schema import TrainRecipe
from ullava.training.optim import stages

ROOT = Path(__file__).resolve().parents[2]

# Spec 1.7 and 2.6 of u-LLaVA, with what its addendum corrects: our token rows train in every stage.
HEADS = {stages.DECODER, stages.MASK_PROJECTOR, stages.BOX_HEAD}
TRAINED = {
    "tiny_core_stage1": {stages.TOKEN_ROWS, stages.PROJECTOR},
    "tiny_stage2": {stages.LANGUAGE, stages.LANGUAGE_HEAD, stages.PROJECTOR, *HEADS},
    "tiny_stage2_lora": {stages.ADAPTERS, stages.TOKEN_ROWS, stages.LANGUAGE_HEAD, *HEADS},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, lessons: Path) -> dict[str, Path]:
    """The three runs: stage I, then stage II with all of the language model, and with LoRA."""
    folder = tmp_path_factory.mktemp("stages")
    made: dict[str, Path] = {}
    for name in TRAINED:
        out = folder / name
        line = ["train", name, f"data_root={lessons}", "training.max_steps=3", "training.use_cpu=true"]
        line += ["training.per_device_train_batch_size=2", "training.disable_tqdm=true", "training.learning_rate=1e-3"]
        if name != "tiny_core_stage1":
            line.append(f"init={made['tiny_core_stage1'] / 'model'}")
        assert main([*line, "--out", str(out)]) == 0
        made[name] = out
    return made


@pytest.mark.parametrize("name", TRAINED)
def test_exactly_the_published_parts_move(runs: dict[str, Path], name: str) -> None:
    assert all(math.isfinite(loss) for loss in losses(runs[name]))
    if name == "tiny_core_stage1":
        return
    before = load_file(runs["tiny_core_stage1"] / "model" / "model.safetensors")
    after = load_file(runs[name] / "model" / "model.safetensors")
    kept = [key for key in before if key.startswith(("vision.", "language_model."))]
    moved = {key for key in kept if not torch.equal(before[key], after[key])}
    language = ((stages.LANGUAGE_HEAD, ("language_model.lm_head.",)), (stages.LANGUAGE, ("language_model.",)))
    known = (*language, (stages.PROJECTOR, ("vision.projector.",)), (stages.TOWER, ("vision.tower.",)))
    parts = {part for part, prefixes in known for key in moved if key.startswith(prefixes)}
    if name == "tiny_stage2_lora":
        assert {key.rsplit(".", 2)[-2] for key in moved} == {"q_proj", "v_proj", "embed_tokens", "lm_head"}
    else:
        assert parts == {stages.LANGUAGE, stages.LANGUAGE_HEAD, stages.PROJECTOR}


@pytest.mark.parametrize("name", TRAINED)
def test_what_trains_is_what_was_published(name: str) -> None:
    from ullava.config.schema import ModelConfig
    from ullava.modeling.construction.build import build_model
    from ullava.training.optim.lora import attach_adapters

    path = ROOT / "configs" / "train" / f"{name.replace('tiny', 'ullava')}.yaml"
    recipe = load_config(TrainRecipe, path)
    model_file = ROOT / "models" / "tiny_quick" / "model.yaml"
    model, _ = build_model(load_config(ModelConfig, model_file), model_file.parent)
    if recipe.lora is not None:
        attach_adapters(model.language_model, recipe.lora, str(path))
    plan = stages.apply_stage(
        model, recipe.stage, lora=recipe.lora is not None, quality_trains=False, parts=recipe.parts
    )
    assert {row.part for row in plan.rows if row.trained} == TRAINED[name]


def test_the_second_stage_measures_itself_and_leaves_a_model(runs: dict[str, Path], exam: Path) -> None:
    report = json.loads((runs["tiny_stage2"] / "metrics.json").read_text())
    assert report["protocol"] == "teacher_forced"
    assert report["results"][0]["metrics"]["cIoU"] >= 0
    adapter = runs["tiny_stage2_lora"] / "adapter"
    kept = set(load_file(adapter / "trained.safetensors"))
    assert any(key.startswith("mask_head.projector.") for key in kept)
    assert any(key.startswith("box_head.") for key in kept)
    assert "language_model.lm_head.weight" in kept and "rows/language_model.model.embed_tokens.weight" in kept
    out = runs["tiny_stage2_lora"].parent / "eval"
    line = ["eval", "eval_res", f"data_root={exam}", "dataset={label: {dataset: shapes_res, limit: 2}}"]
    line += ["max_new_tokens=4", "--model", str(runs["tiny_stage2_lora"] / "model"), "--out", str(out)]
    assert main(line) == 0


def test_a_part_that_is_none_is_refused(lessons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "tiny_core_stage1", f"data_root={lessons}", "parts={vision projectr: false}"]
    assert main([*line, "--out", str(tmp_path / "no")]) == 2
    assert "no part is called 'vision projectr'; did you mean 'vision projector'?" in capsys.readouterr().err
