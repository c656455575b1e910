"""SliME's steps one after the other, on their small twins: exactly the published parts move."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.recipes.conftest import losses

from ullava.cli.main import main
from ullava.text.conversation import CHAT_TEMPLATES

STEPS = {
    "tiny_slime_i_a": "",
    "tiny_slime_i_b": "tiny_slime_i_a",
    "tiny_slime_ii": "tiny_slime_i_b",
    "tiny_slime_iii": "tiny_slime_ii",
    "tiny_slime_iii_lora": "tiny_slime_ii",
}
"""Each step and the one before it."""
GATE = {"vision.mixture.w_gate", "vision.mixture.w_noise"}
VISION_ENCODER = GATE | {"vision.mixture.projection", "vision.mixture.attn", "vision.local"}
ROWS = {"language_model.model", "language_model.lm_head"}
"""Where the rows of our own tokens lie, which train in every step."""
MOVES = {
    "tiny_slime_i_b": ROWS | {"vision.mixture.attn"},
    "tiny_slime_ii": ROWS | {"vision.local"},
    "tiny_slime_iii": ROWS | VISION_ENCODER,
    "tiny_slime_iii_lora": ROWS | VISION_ENCODER,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, lessons: Path) -> dict[str, Path]:
    """Every step for two steps of the optimizer, each from the one before."""
    folder = tmp_path_factory.mktemp("slime")
    made: dict[str, Path] = {}
    for name, before in STEPS.items():
        line = ["train", name, f"data_root={lessons}", "training.max_steps=2", "training.use_cpu=true"]
        line += ["training.per_device_train_batch_size=2", "training.disable_tqdm=true"]
        line += ["training.learning_rate=1e-3"] + ([f"init={made[before] / 'model'}"] if before else [])
        made[name] = folder / name
        assert main([*line, "--out", str(made[name])]) == 0
    return made


def place(key: str) -> str:
    """The part that a weight belongs to, as this file names parts."""
    return ".".join(key.split(".")[: 3 if key.startswith("vision.mixture.") else 2])


@pytest.mark.parametrize("name", MOVES)
def test_exactly_the_published_parts_move(runs: dict[str, Path], name: str) -> None:
    assert all(math.isfinite(loss) for loss in losses(runs[name]))
    before, after = (load_file(runs[run] / "model" / "model.safetensors") for run in (STEPS[name], name))
    assert {place(key) for key in before if not torch.equal(before[key], after[key])} == MOVES[name]


def test_a_step_keeps_its_switches_with_the_model(runs: dict[str, Path]) -> None:
    seen = {}
    for name, run in runs.items():
        config = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))
        template = (run / "model" / "chat_template.jinja").read_text(encoding="utf-8")
        written = next(known for known, text in CHAT_TEMPLATES.items() if text == template)
        seen[name] = (config["vision_settings"]["view"], config["vision_settings"]["gate"], written)
    assert seen == {
        "tiny_slime_i_a": ("global", "mlp", "plain"),
        "tiny_slime_i_b": ("global", "resampler", "plain"),
        "tiny_slime_ii": ("local", "resampler", "plain"),
        "tiny_slime_iii": ("both", "learned", "vicuna_v1"),
        "tiny_slime_iii_lora": ("both", "learned", "vicuna_v1"),
    }


def test_the_trained_model_answers_about_images_and_films(runs: dict[str, Path], lessons: Path, films: Path) -> None:
    image = next(path for path in sorted((lessons / "images").iterdir()) if path.is_file())
    film = next(path for path in sorted(films.rglob("*")) if path.suffix in (".gif", ".mp4"))
    for kind, file in (("--image", image), ("--video", film)):
        out = runs["tiny_slime_iii"] / f"answer{kind}"
        line = ["predict", "--model", str(runs["tiny_slime_iii"] / "model"), kind, str(file)]
        assert main([*line, "--prompt", "What is there?", "--out", str(out), "--max-new-tokens", "3"]) == 0
        assert (out / "answer.json").is_file()
