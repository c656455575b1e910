"""``ullava convert image_size``: the same weights for images of another size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import ullava
from ullava import resources

PHOTO = resources.find("models", "photo").parent


def sizes(folder: Path) -> tuple[int, int, int]:
    config = json.loads((folder / "config.json").read_text())
    processor = json.loads((folder / "processor_config.json").read_text())
    return config["vision_config"]["image_size"], processor["image_side"], processor["sam_side"]


def test_a_model_takes_images_of_another_size(command: Any, tmp_path: Path) -> None:
    out = tmp_path / "smaller"
    code, told, err = command("convert", "image_size", "--from", "photo", "--image-size", "192", "--out", str(out))
    assert code == 0, err
    assert sizes(out) == (192, 192, 192)
    before = sizes(PHOTO / "weights")[0]
    assert before != 192 and f"before: {before}" in told
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {path.relative_to(PHOTO / "weights").as_posix() for path in (PHOTO / "weights").rglob("*.*")}
    if not (PHOTO / "language").is_dir():
        pytest.skip("answering needs the pretrained parts of models/photo (shells/setup.sh makes them)")
    image = Image.new("RGB", (300, 200), (90, 120, 60))
    answer = ullava.load(out, device="cpu").answer(image, "Segment the dog.", max_new_tokens=24)
    assert answer.text


@pytest.mark.parametrize(
    ("model", "side", "problem"),
    [
        ("photo", "200", "--image-size 200: has to be a multiple of 32"),
        ("photo", "0", "--image-size 0: has to be a multiple of 32"),
        ("tiny", "64", "has positions for its own size; this takes"),
    ],
)
def test_what_cannot_be_is_said(command: Any, tmp_path: Path, model: str, side: str, problem: str) -> None:
    line = ("convert", "image_size", "--from", model, "--image-size", side, "--out", str(tmp_path / "no"))
    code, _, err = command(*line)
    assert code == 2 and problem in err and len(err.splitlines()) == 1
    assert not (tmp_path / "no").exists()
