"""The same image as a path, as Pillow opens it and as an array gets the same answer; everything else one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ullava
from ullava.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)


def test_a_path_a_pillow_image_and_an_array_get_one_answer(random_model: Path, tmp_path: Path) -> None:
    predictor = ullava.load(str(random_model), device="cpu")
    note = Image.Exif()
    note[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=note)
    seen: list[np.ndarray] = []
    preprocess = predictor.processor.vision.preprocess

    def spying(image: np.ndarray, *rest: object) -> object:
        seen.append(image)
        return preprocess(image, *rest)

    predictor.processor.vision.preprocess = spying
    upright = np.rot90(RGB, -1)
    forms = (tmp_path / "turned.png", str(tmp_path / "turned.png"), Image.open(tmp_path / "turned.png"), upright)
    answers = [predictor.answer(form, "What is it?", max_new_tokens=3) for form in forms]
    assert len({answer.text for answer in answers}) == 1
    for image in seen:
        np.testing.assert_array_equal(image, upright)
    predictor.answer([RGB[::-1], RGB[..., 0]], "Both?", max_new_tokens=1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB / 255, r"an array is uint8 \[H, W, 3\] .*, not float64"),
        (b"\x89PNG", "an image is a path, a Pillow image or an array, not bytes"),
        (Image.new("I;16", (3, 3)), "more than 8 bits per channel"),
        (7, "an image is a path, a Pillow image or an array, not int"),
    ],
)
def test_what_is_no_image_is_refused(random_model: Path, image: object, message: str) -> None:
    predictor = ullava.load(str(random_model), device="cpu")
    with pytest.raises(UserError, match=message):
        predictor.answer(image, "What is it?")
    with pytest.raises(UserError, match="a video is a path or a Clip, not int"):
        predictor.answer("What is it?", video=7)
