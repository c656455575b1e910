"""``ullava.load(quantize=...)`` and ``--quantize``: answers and masks of fewer bits beside those of the whole model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ullava
from ullava.benchmarks.agreement import agreement, world_questions
from ullava.errors import UserError
from ullava.synthetic.write import draw_world

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_tiny_sees_the_same_in_fewer_bits(tmp_path: Path, kind: Any) -> None:
    if kind == "nf4":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes (extra quantize) is not installed")
    draw_world(tmp_path / "world", 10, 2026, "seen")
    questions = world_questions(tmp_path / "world")
    assert len(questions) == 10
    whole, few = (ullava.load("tiny", device="cpu", quantize=held) for held in (None, kind))
    found = agreement(whole, few, questions)
    assert found["masks"] >= 8 and found["lost"] == 0
    assert found["mean_iou"] >= 0.98
    with pytest.raises(UserError, match=f"a model in {kind} is not saved"):
        few.model.save_pretrained(str(tmp_path / "saved"))


def test_the_flag_and_the_key_reach_the_model(command: Command, random_model: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "image.png")
    asked = ("predict", "--model", str(random_model), "--image", str(tmp_path / "image.png"), "--prompt", "What?")
    code, _, errors = command(
        *asked, "--out", str(tmp_path / "out"), "--max-new-tokens", "3", "--device", "cpu", "--quantize", "int8"
    )
    assert code == 0, errors
    assert json.loads((tmp_path / "out" / "answer.json").read_text())["quantize"] == "int8"
    code, _, errors = command(*asked, "--quantize", "4bit")
    assert code == 2 and "no kind '4bit'; there are int8 (8 bits), nf4 (4 bits)" in errors
    code, _, errors = command("eval", "shapes", "quantize=int4", "--out", str(tmp_path / "eval"))
    assert code == 2 and "quantize" in errors and "nf4" in errors
