"""Two processes with DDP, ZeRO-1/2/3 or FSDP2 train as one does; what wraps the model is asked of the objects."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.unit.training import launched
from tests.unit.training.launched import loss_lines

from ullava.training.distributed.sharding import takes_sharded_models

ROOT = Path(__file__).resolve().parents[3]
WAYS: dict[str, tuple[str, str]] = {
    "ddp": ("", "DistributedDataParallel"),
    "fsdp2": ("sharding=fsdp2", "FSDP2"),
    "zero1": ("training.deepspeed=zero1.json", "DeepSpeed ZeRO-1"),
    "zero2": ("training.deepspeed=zero2.json", "DeepSpeed ZeRO-2"),
    "zero3": ("training.deepspeed=zero3.json", "DeepSpeed ZeRO-3"),
}
STEPS = 3


def train(recipe: Path, out: Path, processes: int, *overrides: str) -> Path:
    """Train for ``STEPS`` steps, where ``overrides`` do not say otherwise, and return the run folder."""
    return launched.train(recipe, out, processes, f"training.max_steps={STEPS}", *overrides)


def compared(run: Path) -> list[dict[str, float]]:
    keep = ("loss", "grad_norm", "step")
    return [{k: v for k, v in line.items() if k.startswith(keep)} for line in loss_lines(run)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What one process made of a recipe, by its settings; filled as the tests ask."""
    return {}


def check_same(one: Path, two: Path, wrapper: str) -> None:
    """Compare losses and saved weights of two runs, and hold the second one's wrapper against ``wrapper``."""
    report = json.loads((two / "metrics.json").read_text())["training"]
    assert (report["wrapper"], report["processes"]) == (wrapper, 2)
    ours, theirs = compared(one), compared(two)
    assert max(map(len, ours)) >= 6, "a step without masks and boxes has fewer terms, but not all may be so"
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] == list(range(1, STEPS + 1))
    for first, second in zip(ours, theirs, strict=True):
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert second[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name
    before, after = (load_file(run / "model" / "model.safetensors") for run in (one, two))
    assert before.keys() == after.keys()
    far = {name for name in before if (before[name] - after[name]).abs().max() > 5e-3}
    assert not far, sorted(far)[:5]


def skip_where_it_cannot_run(way: str) -> None:
    """Skip where a package is missing or too old; elsewhere a run that fails is a failure."""
    if way.startswith("zero") and find_spec("deepspeed") is None:
        pytest.skip("the package deepspeed is not installed (extra [deepspeed])")
    if way == "fsdp2" and not takes_sharded_models():
        pytest.skip("this transformers cannot train a sharded model (refused: test_a_trainer_that_is_too_old)")


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in WAYS if way != "ddp"])
@pytest.mark.parametrize("settings", ["stage=scratch", pytest.param("LORA", marks=pytest.mark.exhaustive)])
def test_two_processes_equal_one(
    recipe_file: Path, alone: dict[str, Path], tmp_path: Path, tmp_path_factory: Any, way: str, settings: str
) -> None:
    skip_where_it_cannot_run(way)
    options = ["training.learning_rate=1e-3", "training.save_strategy=no", "training.optim=adamw_torch"]
    options.append("dataset={shapes_res: {turns: 2}}")
    if settings == "LORA":
        if "base" not in alone:
            alone["base"] = train(recipe_file, tmp_path_factory.mktemp("alone") / "base", 1, *options)
        options += [f"init={alone['base'] / 'model'}", "stage=ground", "lora={r: 2, dropout: 0.0}"]
    batch = "training.per_device_train_batch_size"
    if settings not in alone:
        alone[settings] = train(recipe_file, tmp_path_factory.mktemp("one") / "one", 1, *options, f"{batch}=4")
    override, wrapper = WAYS[way]
    two = train(recipe_file, tmp_path / "two", 2, *options, override, f"{batch}=2")
    check_same(alone[settings], two, wrapper)


@pytest.mark.slow
def test_shares_go_with_batches_that_use_other_parts_than_the_other_process(recipe_file: Path, tmp_path: Path) -> None:
    """Rows of words alone, rows without a mask: here one process runs parts that the other one does not."""
    skip_where_it_cannot_run("fsdp2")
    options = ["training.learning_rate=1e-3", "training.save_strategy=no", "training.optim=adamw_torch"]
    options += [
        "dataset={shapes_res: {weight: 1, turns: 1}, shapes_vqa: {weight: 1, turns: 1}, shapes_text: {weight: 2}}"
    ]
    batch = "training.per_device_train_batch_size"
    one = train(recipe_file, tmp_path / "one", 1, *options, f"{batch}=2")
    two = train(recipe_file, tmp_path / "two", 2, *options, "sharding=fsdp2", f"{batch}=1")
    check_same(one, two, "FSDP2")


@pytest.mark.exhaustive
def test_a_sharded_run_goes_on_where_it_stopped(recipe_file: Path, tmp_path: Path) -> None:
    skip_where_it_cannot_run("fsdp2")
    options = ["sharding=fsdp2", "training.learning_rate=1e-3", "training.lr_scheduler_type=constant"]
    options += ["training.optim=adamw_torch", "training.save_strategy=steps", "training.save_steps=1"]
    options += ["dataset={shapes_res: {turns: 2}}", "training.per_device_train_batch_size=2"]
    whole = train(recipe_file, tmp_path / "whole", 2, *options)
    parts = train(recipe_file, tmp_path / "parts", 2, *options, "training.max_steps=2")
    train(recipe_file, parts, 2, *options, "--resume")
    for first, second in zip(compared(whole), compared(parts), strict=True):
        assert second == pytest.approx(first, rel=1e-5)
    before, after = (load_file(run / "model" / "model.safetensors") for run in (whole, parts))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    shares = parts / "checkpoints" / f"checkpoint-{STEPS}" / "optimizer_shares"
    assert {path.name for path in shares.glob("*.distcp")} == {"__0_0.distcp", "__1_0.distcp"}
    (shares / "__1_0.distcp").unlink()
    for step in range(1, STEPS):
        shutil.rmtree(parts / "checkpoints" / f"checkpoint-{step}")
    with pytest.raises(AssertionError, match=r"optimizer_shares/__1_0\.distcp is missing"):
        train(recipe_file, parts, 2, *options, "--resume", "training.max_steps=4")


@pytest.mark.exhaustive
@pytest.mark.parametrize("protocol", ["teacher_forced", "generate"])
def test_a_sharded_run_is_examined_on_the_way_as_one_process_is(
    recipe_file: Path, tmp_path: Path, protocol: str
) -> None:
    skip_where_it_cannot_run("fsdp2")
    options = ["training.learning_rate=1e-3", "training.save_strategy=no", "training.optim=adamw_torch"]
    options += ["dataset={shapes_res: {turns: 2}}", "eval_dataset={shapes_res: {}, shapes_vqa: {limit: 1}}"]
    options += [
        f"eval_protocol={protocol}",
        "training.eval_strategy=steps",
        "training.eval_steps=2",
        "max_new_tokens=8",
    ]
    batch = "training.per_device_train_batch_size"
    one = train(recipe_file, tmp_path / "one", 1, *options, f"{batch}=4")
    two = train(recipe_file, tmp_path / "two", 2, *options, "sharding=fsdp2", f"{batch}=2")
    check_same(one, two, "FSDP2")  # and training goes on with shares as if nothing had been
    for step in ("step-2", "step-3"):
        alone, shared = (
            json.loads((run / "eval" / step / "metrics.json").read_text())["results"] for run in (one, two)
        )
        assert [row["n"] for row in alone] == [row["n"] for row in shared] and len(alone) == 2
        for expected, found in zip(alone, shared, strict=True):
            assert found["metrics"] == pytest.approx(expected["metrics"], abs=1.0)


def test_a_trainer_that_is_too_old(
    command: Any, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ullava.training.distributed import sharding

    monkeypatch.setattr(sharding, "takes_sharded_models", lambda: False)
    code, _, err = command("train", str(recipe_file), "sharding=fsdp2", "--out", str(tmp_path / "no"))
    assert code == 2 and "sharding: fsdp2 needs a newer transformers than" in err and not (tmp_path / "no").exists()


def test_sharding_without_processes_is_refused(
    command: Any, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    line = ("train", str(recipe_file), "--out", str(tmp_path / "no"))
    code, _, err = command(*line, "sharding=fsdp2", "optimizer.kind=muon")
    assert code == 2
    assert "sharding: fsdp2 needs processes: start with torchrun" in err
    assert "optimizer.kind: muon needs whole matrices" in err
    code, _, err = command(*line, "training.fsdp=full_shard", "training.use_cpu=true")
    assert code == 2 and "would train with DDP; say sharding: fsdp2" in err
    code, _, err = command(*line, "training.deepspeed=zero2.json")
    assert code == 2
    missing = find_spec("deepspeed") is None
    assert ("pip install 'ullava[deepspeed]'" if missing else "start with torchrun") in err
    code, _, err = command(*line, "training.deepspeed=zero3.json", "eval_dataset={shapes_vqa: {}}")
    assert code == 2 and "a process of ZeRO-3 cannot answer alone" in err
    assert not (tmp_path / "no").exists()


def test_what_processes_would_wait_for_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from ullava.errors import UserError
    from ullava.examples import Batch, ModelInputs, Targets, VisualInputs
    from ullava.training.distributed import sharding

    wrapped = SimpleNamespace(zero_optimization_stage=lambda: 3)
    trainer = SimpleNamespace(
        is_deepspeed_enabled=True, model_wrapped=wrapped, model=torch.nn.Linear(1, 1),
        args=SimpleNamespace(world_size=2), state=SimpleNamespace(global_step=4),
    )  # fmt: skip
    shown = VisualInputs(views={"base": torch.ones(1, 3)}, index=torch.zeros(1, dtype=torch.long))
    seen = Batch(
        inputs=ModelInputs(input_ids=torch.ones(1, 2), images=shown),
        targets=Targets(masks=[], boxes_xyxy_head=torch.zeros(0, 4)),
    )
    alike = {"images": True, "videos": False, "masks": False, "boxes": False}
    others = {"as this one": alike, "with masks": alike | {"masks": True}}

    def gather(rows: list[dict[str, bool]], mine: dict[str, bool]) -> None:
        rows[:] = [mine, others[case]]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    case = "as this one"
    sharding.check_step(trainer, seen)
    case = "with masks"
    with pytest.raises(UserError, match="step 5: some processes have masks in their rows and others none.*fsdp2"):
        sharding.check_step(trainer, seen)
    trainer.model_wrapped = SimpleNamespace(zero_optimization_stage=lambda: 2)
    sharding.check_step(trainer, seen)


def test_deepspeed_settings_are_found_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ullava.errors import ConfigError
    from ullava.training.distributed.sharding import find_deepspeed

    monkeypatch.chdir(tmp_path)
    folder = ROOT / "configs" / "deepspeed"
    halves = {"bf16_zero2.json", "fp16_zero2.json"}
    assert {path.name for path in folder.glob("*.json")} == halves | {f"zero{n}.json" for n in (1, 2, 3)}
    for name in ("zero2.json", "configs/deepspeed/zero2.json", "./configs/deepspeed/zero2.json"):
        assert Path(find_deepspeed(name)) == folder / "zero2.json"
    with pytest.raises(ConfigError, match="no file zero4.json; known: .*zero2.json"):
        find_deepspeed("zero4.json")
    for path in folder.glob("*.json"):
        stage = json.loads(path.read_text())["zero_optimization"]["stage"]
        assert str(stage) in path.stem


def test_fsdp2_shares_all_weights_and_leaves_row_tables_whole(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_where_it_cannot_run("fsdp2")
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    from ullava.training.distributed.sharding import is_sharded, shard_model
    from ullava.training.optim.stages import apply_stage

    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531"}.items():
        monkeypatch.setenv(name, value)
    model, _ = make_model()
    plan = apply_stage(model, "align")
    shard_model(model, plan)
    try:
        assert is_sharded(model)
        groups = [module for module in model.modules() if isinstance(module, FSDPModule)]
        assert groups == [model, *model.language_model.get_decoder().layers]
        whole = {name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)}
        assert whole == plan.row_tables == {"language_model.model.embed_tokens.weight"}
    finally:
        torch.distributed.destroy_process_group()
