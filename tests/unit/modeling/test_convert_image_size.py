"""``ullava convert image_size``: the same weights for images of another size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import ullava
from ullava import resources
from ullava.synthetic.write import draw_world

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


def test_training_goes_on_at_the_size_of_the_weights(command: Any, tmp_path: Path) -> None:
    if not (PHOTO / "language").is_dir():
        pytest.skip("training needs the pretrained parts of models/photo (shells/setup.sh makes them)")
    start, run = tmp_path / "small", tmp_path / "run"
    assert command("convert", "image_size", "--from", "photo", "--image-size", "96", "--out", str(start))[0] == 0
    draw_world(tmp_path / "shapes", 4, 3, "train")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: photo\nstage: ground\nattn_implementation: eager\n"
        f"init: {start}\ndata_root: {tmp_path / 'shapes'}\n"
        "lora: {r: 2, alpha: 4, dropout: 0.0, target: [q_proj]}\n"
        "loss: {ce: 0.0, bce: 2.0, dice: 1.0, mask_plane: lowres}\n"
        "dataset: {shapes_res: {}}\n"
        "training: {per_device_train_batch_size: 2, max_steps: 1, use_cpu: true, save_strategy: 'no'}\n"
    )
    code, _, err = command("train", str(recipe), "--out", str(run))
    assert code == 0, err
    assert sizes(run / "model") == (96, 96, 96)


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
