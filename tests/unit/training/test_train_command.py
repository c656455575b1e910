"""``ullava train`` from the command line: what it leaves, what it refuses, and that resuming is exact."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.unit.training.conftest import MODEL

Command = Callable[..., tuple[int, str, str]]


def losses(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


@pytest.fixture
def run_it(command: Command, recipe_file: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """A function that trains into ``tmp_path / name``."""

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        return command("train", str(recipe_file), *arguments, "--out", str(tmp_path / name))

    return run


def test_a_run_leaves_everything_that_it_says(run_it: Any, tmp_path: Path) -> None:
    code, out, err = run_it("run", "eval_dataset={shapes_vqa: {limit: 2}}", "max_new_tokens=8")
    assert code == 0, err
    run = tmp_path / "run"
    names = {path.name for path in run.iterdir()}
    assert names == {"recipe.yaml", "train_log.jsonl", "checkpoints", "eval", "metrics.json", "curve.png", "model"}
    for words in ("stage scratch: what trains", "shapes_res", "box head", "frozen"):
        assert words in out
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["protocol"] == "generate" and metrics["training"]["steps"] == 6
    (row,) = metrics["results"]
    assert (row["dataset"], row["task"], row["skipped"]) == ("shapes_vqa", "vqa", 0)
    assert 0 <= row["metrics"]["accuracy"] <= 100
    assert "max_new_tokens: 8" in (run / "recipe.yaml").read_text()


def test_the_saved_model_can_be_loaded_and_asked(run_it: Any, tmp_path: Path, world: Path) -> None:
    import ullava

    assert run_it("run", "training.max_steps=1")[0] == 0
    predictor = ullava.load(str(tmp_path / "run" / "model"), device="cpu")
    image = next(path for path in sorted((world / "images").iterdir()))
    assert predictor.answer(image, "Where is it?", max_new_tokens=3).new_tokens <= 3


def test_a_resumed_run_with_loader_workers_augments_as_an_undisturbed_one(run_it: Any, tmp_path: Path) -> None:
    settings = ("dataset.shapes_res.augment={flip: 0.5, crop: 0.7, color: 0.5}", "training.logging_steps=2")
    assert run_it("plain", "training.logging_steps=2")[0] == 0
    assert run_it("whole", *settings)[0] == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    shutil.rmtree(tmp_path / "torn" / "checkpoints" / "checkpoint-6")
    shutil.rmtree(tmp_path / "torn" / "model")
    code, _, err = run_it("torn", *settings, "training.dataloader_num_workers=2", "--resume")
    assert code == 0, err
    assert losses(tmp_path / "torn") == losses(tmp_path / "whole") != losses(tmp_path / "plain")
    torn, whole = weights(tmp_path / "torn"), weights(tmp_path / "whole")
    assert all(torch.equal(torn[name], whole[name]) for name in whole)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resuming_gives_the_losses_and_weights_of_an_undisturbed_run(
    run_it: Any, tmp_path: Path, optimizer: str
) -> None:
    settings = (f"optimizer.kind={optimizer}", "training.logging_steps=2")
    assert run_it("whole", *settings)[0] == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    shutil.rmtree(tmp_path / "torn" / "checkpoints" / "checkpoint-6")
    shutil.rmtree(tmp_path / "torn" / "model")
    code, out, err = run_it("torn", *settings, "--resume")
    assert code == 0, err
    assert "resuming after step 3" in out
    assert losses(tmp_path / "torn") == losses(tmp_path / "whole")
    assert [line["step"] for line in losses(tmp_path / "torn")] == [2, 4, 6]
    whole, torn = weights(tmp_path / "whole"), weights(tmp_path / "torn")
    assert whole.keys() == torn.keys()
    assert all(torch.equal(whole[name], torn[name]) for name in whole)


def test_resuming_into_another_epoch_goes_on_with_its_order(run_it: Any, tmp_path: Path) -> None:
    settings = ("dataset={shapes_res: {turns: 1, limit: 10}}", "training.save_steps=5", "training.max_steps=7")
    assert run_it("whole", *settings)[0] == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    shutil.rmtree(tmp_path / "torn" / "checkpoints" / "checkpoint-7")
    assert run_it("torn", *settings, "--resume")[0] == 0
    assert losses(tmp_path / "torn") == losses(tmp_path / "whole")
    assert losses(tmp_path / "whole")[-1]["epoch"] > 2


@pytest.mark.parametrize("settings", [("stage=scratch",), ("stage=align",), ("stage=ground", "lora={r: 2}")])
def test_recomputing_activations_changes_no_loss(run_it: Any, tmp_path: Path, settings: tuple[str, ...]) -> None:
    short = (*settings, "training.max_steps=2", "training.save_strategy=no")
    assert run_it("plain", *short)[0] == 0
    code, _, err = run_it("recomputed", *short, "training.gradient_checkpointing=true")
    assert code == 0, err
    for plain, recomputed in zip(losses(tmp_path / "plain"), losses(tmp_path / "recomputed"), strict=True):
        assert recomputed["loss"] == pytest.approx(plain["loss"], rel=1e-4)
        assert recomputed["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-3)


def test_a_used_folder_is_refused(run_it: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "note").write_text("mine")
    code, _, err = run_it("run")
    assert code == 2 and "not empty" in err and "--resume" in err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["note"]


def test_resuming_another_recipe_is_refused(run_it: Any, tmp_path: Path) -> None:
    assert run_it("run", "training.max_steps=1")[0] == 0
    code, _, err = run_it("run", "--resume", "loss.bce=7", "stage=ground")
    assert code == 2 and "--resume with another stage, loss" in err


def test_resuming_a_model_of_another_size_is_refused(run_it: Any, tmp_path: Path, model_yaml: Path) -> None:
    assert run_it("run", "training.max_steps=1", "training.save_steps=1")[0] == 0
    before = model_yaml.read_text()
    try:
        model_yaml.write_text(before.replace("box: {width: 32}", "box: {width: 48}"))
        code, _, err = run_it("run", "training.max_steps=1", "training.save_steps=1", "--resume")
    finally:
        model_yaml.write_text(before)
    assert code == 2 and "box_head" in err and "has model.yaml changed" in err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.lerning_rate=1", "did you mean 'learning_rate'"),
        ("training.output_dir=x", "--out"),
        ("dataset.shapes_rse={}", "did you mean 'shapes_res'"),
        ("data_root=nowhere", "nowhere"),
        ("model=tinny", "did you mean 'tiny"),
        ("stage=grond", "did you mean 'ground'"),
        ("init=nowhere/model", "nowhere/model"),
        ("lora={r: 4, target: [q_porj]}", "did you mean 'q_proj'"),
        ("eval_dataset={shapes_res: {portion: 0.5}}", "portion"),
    ],
)
def test_mistakes_exit_with_two_and_leave_nothing(run_it: Any, tmp_path: Path, override: str, words: str) -> None:
    code, _, err = run_it("run", override)
    assert code == 2 and words in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_adapters_are_saved_beside_the_merged_model(run_it: Any, tmp_path: Path) -> None:
    import ullava

    assert run_it("base", "training.max_steps=1")[0] == 0
    base = str(tmp_path / "base" / "model")
    settings = (f"init={base}", "stage=ground", "lora={r: 2}", "training.learning_rate=0.01")
    code, out, err = run_it("lora", *settings)
    assert code == 0, err
    assert "LoRA adapters" in out and "special-token rows" in out
    before, after = weights(tmp_path / "base"), weights(tmp_path / "lora")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    language = {name.rsplit(".", 2)[-2] for name in changed if name.startswith("language_model.")}
    assert language == {"q_proj", "v_proj", "embed_tokens"}
    assert not any(name.startswith(("vision.tower", "mask_head.sam.vision_encoder")) for name in changed)
    assert (tmp_path / "lora" / "adapter" / "adapter_config.json").is_file()
    ullava.load(str(tmp_path / "lora" / "model"), device="cpu")
    shutil.rmtree(tmp_path / "lora" / "checkpoints" / "checkpoint-6")
    expected = losses(tmp_path / "lora")
    assert run_it("lora", *settings, "--resume")[0] == 0
    assert losses(tmp_path / "lora") == expected


def test_weights_that_do_not_fit_the_model_are_refused(run_it: Any, tmp_path: Path) -> None:
    assert run_it("base", "training.max_steps=1")[0] == 0
    code, _, err = run_it("next", f"init={tmp_path / 'base' / 'model'}", "model=tiny")
    assert code == 2 and "model tiny asks for" in err
    other = MODEL.replace("tower: {config: {", "tower: {config: {model_type: siglip_vision_model, ")
    (tmp_path / "siglip.yaml").write_text(other.replace(", initializer_range: 0.05", ""), encoding="utf-8")
    code, _, err = run_it("next", f"init={tmp_path / 'base' / 'model'}", f"model={tmp_path / 'siglip.yaml'}")
    assert code == 2 and err.count("asks for") == 1, "a tower of another kind and the same sizes"
    assert "has tower model_type 'clip_vision_model', model" in err and "asks for 'siglip_vision_model'" in err
