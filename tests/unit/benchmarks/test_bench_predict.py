"""``ullava bench predict``: every stage of a real answer is there, and together they are the answer's time."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw


@pytest.fixture
def image(tmp_path):
    picture = Image.fromarray(np.full((64, 64, 3), 230, np.uint8))
    ImageDraw.Draw(picture).ellipse((14, 14, 44, 44), fill=(220, 30, 30))
    picture.save(tmp_path / "circle.png")
    threads = torch.get_num_threads()
    yield tmp_path / "circle.png"
    torch.set_num_threads(threads)


def test_stages_add_up_to_the_answer(command, image, monkeypatch):
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")
    asked = ("--model", "tiny", "--image", str(image), "--prompt", "Segment the red circle.")
    code, printed, _ = command("bench", "predict", *asked, "--repeats", "2", "--json")
    assert code == 0
    report = json.loads(printed)
    stages = report["stages_ms"]
    assert set(stages) == {
        "read", "preprocess", "vision encoder", "prefill", "decode", "mask encoder", "mask decoder", "box head",
        "post-process", "draw",
    }  # fmt: skip
    assert all(value > 0 for value in stages.values())
    inside = sum(value for name, value in stages.items() if name != "draw")
    assert 0.5 * 1000 * report["answer_s"] < inside < 1.5 * 1000 * report["answer_s"]
    assert report["objects"] == 1 and report["new_tokens"] > 3 and "red circle" in report["text"]
    assert report["load_s"] > 0 and 50 < report["memory_loaded_mib"] <= report["memory_peak_mib"]

    code, printed, _ = command("bench", "predict", *asked, "--repeats", "1")
    assert code == 0 and "vision encoder" in printed and "MiB loaded" in printed


def test_what_it_cannot_read_is_one_line(command, tmp_path, monkeypatch):
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")
    code, _, said = command("bench", "predict", "--image", str(tmp_path / "no.png"))
    assert code != 0 and "no.png" in said and "Traceback" not in said
    code, _, said = command("bench", "serve", "--image", "x.png")
    assert code != 0 and "--image belongs to 'ullava bench predict'" in said
    code, _, said = command("bench", "masks", "--model", "tiny")
    assert code != 0 and "--model belongs to 'ullava bench serve or predict or quantize'" in said
