"""Several passes a batch over two processes: the losses and weights of one process, or a refusal that says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.unit.training.conftest import MODEL, RECIPE
from tests.unit.training.test_train_sharded import STEPS, WAYS, compared, skip_where_it_cannot_run, train

AVG = MODEL.replace("vision:\n", "vision:\n  strategy: avg\n  avg: {text_slots: 6, heads: 4, dropout: 0.0}\n")
SETTINGS = ["training.learning_rate=1e-3", "training.save_strategy=no", "training.optim=adamw_torch"]
PASSES: dict[str, list[str]] = {
    "every": ["passes=every", "dataset={shapes_vqa: {weight: 2, turns: 2}, shapes_text: {weight: 1, turns: 1}}"],
    "rank": [
        "passes=rank",
        "stage=align",
        "parts={vision projector: false, special-token rows: false, vision router: true}",
        "loss={ce: 0.0, aux: {rglf_ce: 0.1, rglf_rank: 1.0}}",
        "dataset={shapes_vqa: {weight: 2, turns: 2}, shapes_text: {weight: 1, turns: 1}}",
    ],
}
ALIKE = ["dataset={shapes_res: {turns: 2}}"]


@pytest.fixture
def avg_recipe(write: Callable[[str, str], Path], world: Path) -> Path:
    """The recipe of six steps with vision encoder ``avg``."""
    model = write("model.yaml", AVG)
    return write("recipe.yaml", RECIPE.replace("WORLD", str(world)).replace("MODEL", str(model)))


@pytest.fixture(scope="module")
def alone() -> dict[str, Path]:
    """What one process made, by kind of passes; filled as the tests ask."""
    return {}


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("kind", "way"),
    [(kind, way) for kind in PASSES for way in ("ddp", "fsdp2", "zero2", "zero3")],
)
def test_two_processes_equal_one(
    avg_recipe: Path, alone: dict[str, Path], tmp_path: Path, tmp_path_factory: Any, kind: str, way: str
) -> None:
    """Batches of words alone are among them, and the processes have unlike numbers of images.

    Not under ZeRO-3, where every process has to run the same parts in each step.
    """
    skip_where_it_cannot_run(way)
    if kind == "rank" and way in ("fsdp2", "zero3"):
        pytest.skip("refused: test_a_share_of_the_router_cannot_be_run")
    batch = "training.per_device_train_batch_size"
    options = [*SETTINGS, *PASSES[kind]] + (ALIKE if way == "zero3" else [])
    mixed = f"{kind}, {options[-1]}"
    if mixed not in alone:
        alone[mixed] = train(avg_recipe, tmp_path_factory.mktemp(kind), 1, *options, f"{batch}=4")
    override, wrapper = WAYS[way]
    two = train(avg_recipe, tmp_path / "two", 2, *options, override, f"{batch}=2")
    report = json.loads((two / "metrics.json").read_text())["training"]
    assert (report["wrapper"], report["processes"]) == (wrapper, 2)
    ours, theirs = compared(alone[mixed]), compared(two)
    assert len(ours) == len(theirs) == STEPS
    for first, second in zip(ours, theirs, strict=True):
        assert second == pytest.approx(first, rel=2e-3, abs=1e-5)
    terms = {"every": "loss_ce", "rank": "loss_aux_rglf_rank"}
    assert sum(line.get(terms[kind], 0.0) > 0 for line in ours) >= 2, "steps that teach nothing show nothing"
    before, after = (load_file(run / "model" / "model.safetensors") for run in (alone[mixed], two))
    far = {name for name in before if (before[name] - after[name]).abs().max() > 5e-3}
    assert before.keys() == after.keys() and not far, sorted(far)[:5]


def test_a_share_of_the_router_cannot_be_run(command: Any, avg_recipe: Path, tmp_path: Path) -> None:
    for override in ("sharding=fsdp2", "training.deepspeed=zero3.json"):
        code, _, err = command("train", str(avg_recipe), *PASSES["rank"], override, "--out", str(tmp_path / "no"))
        assert code == 2 and "passes: rank runs the router by itself, which no process with a share" in err
    assert not (tmp_path / "no").exists()
