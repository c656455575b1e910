"""Two processes on a CPU (torchrun, gloo, DDP) train as one with twice the batch does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.unit.training import launched
from tests.unit.training.launched import loss_lines


def train(recipe: Path, out: Path, processes: int, *overrides: str, steps: int = 2) -> list[dict[str, Any]]:
    """The logged losses of a run of some steps."""
    return loss_lines(launched.train(recipe, out, processes, *overrides, f"training.max_steps={steps}"))


def test_two_processes_equal_one_with_twice_the_batch(recipe_file: Path, tmp_path: Path) -> None:
    one = train(recipe_file, tmp_path / "one", 1, "training.per_device_train_batch_size=4")
    two = train(recipe_file, tmp_path / "two", 2, "training.per_device_train_batch_size=2")
    assert [line["step"] for line in one] == [line["step"] for line in two] == [1, 2]
    compared: set[str] = set()
    for alone, together in zip(one, two, strict=True):
        judged = {name for name in alone if name.startswith("loss") or name == "grad_norm"}
        assert judged == {name for name in together if name.startswith("loss") or name == "grad_norm"}
        for name in judged:
            assert together[name] == pytest.approx(alone[name], rel=1e-3), name
        compared |= judged
    assert {"loss", "loss_ce", "loss_bce", "loss_dice", "loss_l1", "loss_giou", "grad_norm"} <= compared


@pytest.mark.exhaustive
def test_a_process_without_a_usable_row_takes_part_with_nothing(recipe_file: Path, world: Path, tmp_path: Path) -> None:
    torn = tmp_path / "world"
    shutil.copytree(world, torn, ignore=shutil.ignore_patterns("*.ullava-cache"))
    for image in sorted((torn / "images").iterdir())[::3]:
        image.write_bytes(b"torn")
    settings = (
        f"data_root={torn}",
        "dataset={shapes_res: {turns: 1}}",
        "bad_sample_budget=20",
        "training.save_steps=9",
    )
    one = train(recipe_file, tmp_path / "one", 1, *settings, "training.per_device_train_batch_size=2", steps=5)
    two = train(recipe_file, tmp_path / "two", 2, *settings, "training.per_device_train_batch_size=1", steps=5)
    left_out = [(tmp_path / name / "bad_samples.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert 2 <= len(left_out[0]) < 8 and sorted(left_out[0]) == sorted(left_out[1])
    assert [line["step"] for line in one] == [line["step"] for line in two] == [1, 2, 3, 4, 5]
    for alone, together in zip(one, two, strict=True):
        judged = {name for name in alone if name.startswith("loss") or name == "grad_norm"}
        assert judged == {name for name in together if name.startswith("loss") or name == "grad_norm"}
        wanted = {name: alone[name] or 0.0 for name in judged}  # the loss of a step without any row is null
        assert {name: together[name] or 0.0 for name in judged} == pytest.approx(wanted, rel=1e-3)
