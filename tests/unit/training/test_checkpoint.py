"""What is wrong with a checkpoint is found and named before anything of it is loaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ullava.cli.main import main
from ullava.errors import UserError
from ullava.training.loop.checkpoint import FILES, DamageError, Found, check, has_weights_alone, newest_usable, seal
from ullava.training.reporting.folder import RunFolder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, world: Path, model_yaml: Path) -> Path:
    """The run folder of three steps with one checkpoint."""
    from tests.unit.training.conftest import RECIPE

    folder = tmp_path_factory.mktemp("trained")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.replace("WORLD", str(world)).replace("MODEL", str(model_yaml)))
    assert main(["train", str(recipe), "training.max_steps=1", "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def checkpoint(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")) / "checkpoint-1"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(b"\x93garbage\xff" * 50)


HARMS: dict[str, Callable[[Path], None]] = {"cut": cut, "empty": empty, "garbage": garbage, "missing": Path.unlink}
NAMES = ("trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def test_a_whole_checkpoint_is_whole(checkpoint: Path) -> None:
    check(checkpoint, 1)
    assert not has_weights_alone(checkpoint)
    files = json.loads((checkpoint / FILES).read_text())["files"]
    assert files == {path.name: path.stat().st_size for path in checkpoint.iterdir() if path.name != FILES}
    assert {*NAMES, "loss_window.json", "config.json", "tokenizer.json"} <= files.keys()


@pytest.mark.parametrize("harm", HARMS)
def test_every_harmed_file_is_named(checkpoint: Path, harm: str) -> None:
    names = [path.name for path in checkpoint.iterdir() if path.name != FILES]
    for name in names:
        before = (checkpoint / name).read_bytes()
        HARMS[harm](checkpoint / name)
        with pytest.raises(DamageError, match=name):
            check(checkpoint, 1)
        (checkpoint / name).write_bytes(before)
    check(checkpoint, 1)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", [*NAMES, "loss_window.json"])
def test_a_checkpoint_without_a_list_of_files_is_judged_by_what_it_has(checkpoint: Path, name: str, harm: str) -> None:
    (checkpoint / FILES).unlink()
    check(checkpoint, 1)
    if (name, harm) == ("loss_window.json", "missing"):
        return  # there were checkpoints without it
    HARMS[harm](checkpoint / name)
    with pytest.raises(DamageError, match=name.split(".")[0]):
        check(checkpoint, 1)


def test_damage_inside_a_file_of_the_same_length_is_found(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DamageError, match=r"optimizer\.pt is damaged"):
        check(checkpoint, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_no_checkpoint(checkpoint: Path, value: float, dtype: torch.dtype) -> None:
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    name = "box_head.decoder.0.bias"
    weights[name] = weights[name].to(dtype)
    weights[name][3] = value
    save_file(weights, path, metadata={"format": "pt"})
    seal(checkpoint)
    with pytest.raises(DamageError, match=rf"model\.safetensors has numbers that are not finite \({name}\)"):
        check(checkpoint, 1)


def test_an_optimizer_that_is_not_finite_is_no_checkpoint(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.pt"
    state = torch.load(path, weights_only=True)
    state["state"][4]["exp_avg_sq"].view(-1)[0] = torch.nan
    torch.save(state, path)
    seal(checkpoint)
    with pytest.raises(DamageError, match=r"optimizer\.pt has numbers that .* \(optimizer\.state\.4\.exp_avg"):
        check(checkpoint, 1)


def test_a_state_of_another_step_is_found(checkpoint: Path) -> None:
    with pytest.raises(DamageError, match=r"trainer_state\.json is of step 1"):
        check(checkpoint, 2)


def test_missing_shards_are_named(checkpoint: Path) -> None:
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    seal(checkpoint)
    with pytest.raises(DamageError, match="model-00001-of-00002"):
        check(checkpoint, 1)


def test_the_newest_whole_one_is_taken_and_those_before_it_are_named(checkpoint: Path) -> None:
    folder = RunFolder(checkpoint.parent.parent)
    newer = checkpoint.with_name("checkpoint-2")
    newer.mkdir()
    found = newest_usable(folder)
    assert (found.checkpoint, found.step) == (checkpoint, 1)
    assert found.passed_over == (f"{newer}: trainer_state.json is missing",)


@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.json"])
def test_only_damaged_ones_stop_the_resume(checkpoint: Path, name: str) -> None:
    empty(checkpoint / name)
    with pytest.raises(UserError, match=rf"(?s){name}.* (empty|bytes of).*no other checkpoint to go on"):
        newest_usable(RunFolder(checkpoint.parent.parent))


def test_one_that_was_being_written_is_none(checkpoint: Path) -> None:
    folder = RunFolder(checkpoint.parent.parent)
    folder.drafts.mkdir()
    checkpoint.rename(folder.drafts / checkpoint.name)
    assert newest_usable(folder) == Found(None, 0, ())
    folder.forget_after(0)
    assert list(folder.checkpoints.iterdir()) == []


def test_every_file_is_on_the_disk_when_the_checkpoint_is_sealed(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink().name))
    seal(checkpoint)
    assert sorted(synced) == sorted(path.name for path in checkpoint.iterdir())


def test_the_best_and_the_last_checkpoint_stay(command: Any, recipe_file: Path, tmp_path: Path) -> None:
    """Also of a run that keeps one: Hugging Face would remove the last one, from which a stopped run goes on."""
    code, _, err = command(
        "train", str(recipe_file), "eval_dataset={shapes_vqa: {limit: 1}}", "max_new_tokens=2", "training.max_steps=3",
        "training.eval_strategy=steps", "training.eval_steps=1", "training.save_steps=1", "training.save_total_limit=1",
        "training.metric_for_best_model=shapes_vqa_accuracy", "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert code == 0, err
    checkpoints = tmp_path / "run" / "checkpoints"
    last = checkpoints / "checkpoint-3"
    best = json.loads((last / "trainer_state.json").read_text())["best_model_checkpoint"]
    assert {path for path in checkpoints.iterdir()} == {last, Path(best)}
    check(Path(best), int(Path(best).name.split("-")[1]))
