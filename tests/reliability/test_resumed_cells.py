"""Runs of every kind are killed and stopped at random moments and resumed: all that they leave is equal to the bit.

python -m pytest tests/reliability/test_resumed_cells.py
python -m pytest tests/reliability/test_resumed_cells.py -m exhaustive
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.reliability.results import differences
from tests.reliability.resumed_cells import CELLS, Trial, World

COMMON = "bf16, 2 workers, accumulation, packing"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """What all cells share."""
    return World(tmp_path_factory.mktemp("world"))


@pytest.mark.slow
def test_a_killed_run_and_one_that_differs(world: World, tmp_path: Path) -> None:
    trial = Trial(world, CELLS[COMMON], tmp_path / "cell", seed=2)
    tally = trial.disturb(kills=2, stops=1)
    assert tally.unequal == [] and tally.kills >= 2 and tally.stops >= 1 and tally.runs >= 1
    other = Path(shutil.copytree(trial.whole, tmp_path / "other"))
    weights = load_file(other / "model" / "model.safetensors")
    weights["box_head.decoder.0.bias"][0] += 1e-6
    save_file(weights, other / "model" / "model.safetensors", metadata={"format": "pt"})
    state = next(other.glob("checkpoints/*/trainer_state.json"))
    state.write_text(json.dumps(json.loads(state.read_text()) | {"epoch": 0.5}))
    log = other / "train_log.jsonl"
    log.write_text(log.read_text().replace('"loss": 1', '"loss": 2').replace('"step": 3', '"step": 2'))
    assert differences(trial.whole, other) == [
        "model differs", "train_log.jsonl differs", "checkpoint: trainer_state.json differs in epoch",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CELLS)
def test_twenty_kills_and_six_stops(world: World, tmp_path: Path, name: str) -> None:
    tally = Trial(world, CELLS[name], tmp_path / "cell", seed=0).disturb(kills=20, stops=6)
    assert tally.unequal == [], tally.row(name)
